"""How results come about: sweeps in shards on any executor, stored results, chapters, their plots.

Nothing here knows an experiment by name.
"""
