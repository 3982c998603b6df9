"""How results come about: sweeps on any executor, stored results, chapters, plots and prose.

Nothing here knows an experiment by name.
"""


class RunError(RuntimeError):
    """What was to be run has failed part of the way: a cell of a chapter, shards of a sweep."""
