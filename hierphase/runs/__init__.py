"""How results come about: sweeps in shards on any executor, stored results, chapters, their plots.

Nothing here knows an experiment by name.
"""


class RunError(RuntimeError):
    """What was to be run has failed part of the way: a cell of a chapter, shards of a sweep."""
