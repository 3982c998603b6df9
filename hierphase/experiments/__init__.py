"""The experiment of the paper, once for every world: corrupt, denoise back, compare level by level.

One file for each variant of it, with its presets; all that they use comes from the rooms below.
"""
