"""Whether a result agrees with the one that the book stores for its chapter and preset."""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import t as student

from hierphase.runs import results


def compare(path: Path | str, directory: Path | str | None = None) -> pd.DataFrame:
    """Compare a result with the stored one of the same chapter and preset.

    At every point of every curve the difference of the two means over units (images, draws of the
    rules ...) is divided by their combined standard error, which sets the width of the book's
    intervals. Chance allows what one in a hundred repetitions with other seeds exceeds anywhere: a
    quantile of Student's t, of as many degrees of freedom as the smaller result has, shared out
    over variables and points. Points that only one of the two has are left out; a variable with one
    value for all units is only found equal or not.

    Args:
        path: a result, e.g. of a sweep.
        directory: of the stored one; by default that of the book.

    Returns:
        For each variable its largest difference in errors, ``difference``, what chance allows,
        ``allowed``, and ``at``, where it is. Its ``attrs`` hold ``parameters``, those that differ,
        each in words, and whether the results agree.

    Raises:
        ValueError: one of the two is missing or damaged, or they have no points in common.

    Example:
        >>> from hierphase import compare
        >>> from hierphase.runs import results
        >>> table = compare(results.result_path("probe-curves", "depth-1"))
        >>> table.attrs["agrees"]
        True
    """
    mine = results.read(Path(path))
    stored = results.read(results.result_path(mine.chapter, mine.preset, directory))
    names = [n for n in stored.data_vars if n in mine and stored[n].dtype.kind in "fiu"]
    rows = {name: _row(mine[name], stored[name], 0.01 / len(names)) for name in names}
    table = pd.DataFrame.from_dict(rows, "index", columns=["difference", "allowed", "at"])
    if table.difference.isna().all():
        raise ValueError(f"{path} and the stored result have no points in common")
    table.attrs["parameters"] = results.differences(stored, mine.parameters, "yours")
    table.attrs["agrees"] = not (table.difference > table.allowed).any()
    return table


def _row(mine: xr.DataArray, stored: xr.DataArray, chance: float) -> tuple[float, float, str]:
    """Of the table; ``chance`` is that of a difference above what is allowed."""
    if mine.equals(stored):
        return 0.0, np.nan, "equal everywhere"
    # A mean is over the first that there is.
    unit = next((name for name in ("datum", "sample", "image", "unit") if name in mine.dims), "")
    try:
        a, b = xr.align(mine.astype(float), stored.astype(float), join="inner", exclude=[unit])
        n, m = a.sizes[unit], b.sizes[unit]
        variance = (n * a.var(unit) + m * b.var(unit)) / (n + m - 2) * (1 / n + 1 / m)
        # Rounding by another machine is no difference.
        errors = abs(a.mean(unit) - b.mean(unit)) / np.hypot(variance**0.5, 1e-5 * abs(b).max())
        worst = errors[errors.fillna(0).argmax(...)]
    except (KeyError, ValueError, ZeroDivisionError):  # no units, other sizes, nothing left
        return np.nan, np.nan, "not compared"
    at = ", ".join(f"{d} {worst[d].item()}" for d in errors.dims if d in worst.coords)
    return worst.item(), student.isf(chance / 2 / errors.size, min(n, m) - 1), at
