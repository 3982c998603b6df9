"""Numbers in the prose of a chapter: glued where they are computed, shown by ``{glue:text}``."""

from myst_nb import glue

from hierphase.analysis.bootstrap import Estimate


def glued(name: str, estimate: Estimate, spec: str = ".3f") -> str:
    """Glue an estimate as ``name-value``, ``name-low`` and ``name-high``, numbers of Python.

    Args:
        name: what the prose calls it.
        estimate: a single number with its interval.
        spec: how its numbers are written in a table.

    Returns:
        The estimate in words.
    """
    for end, x in vars(estimate).items():
        glue(f"{name}-{end}", float(x), display=False)
    return f"{estimate:{spec}}"
