"""What is said of a world from its signs, by rules that were fixed before they were measured.

A table holds ``value``, and ``low`` and ``high`` of 95% intervals, along the dimension ``sign``.
"""

import numpy as np
import xarray as xr
from scipy import stats

from hierphase.checks import check_known, positive_integer

#: How a rule bounds a sign -> whether it holds, given the interval's low end and the bound.
BOUNDS = {"above": lambda low, x: low > x, "not above": lambda low, x: low <= x}


def errors_allowed(n_looks: int = 1) -> float:
    """Standard errors that 5% shared over this many looks allow, either way (Bonferroni).

    Raises:
        ValueError: no looks.
    """
    return stats.norm.ppf(1 - 0.025 / positive_integer("n_looks", n_looks))


def widened(table: xr.Dataset, n_looks: int) -> tuple[xr.DataArray, xr.DataArray]:
    """Both ends of the intervals when 5% is shared over this many looks (Bonferroni).

    Args:
        table: of any shape.
        n_looks: 1 or more.

    Returns:
        ``low`` and ``high``, of that shape.
    """
    factor = errors_allowed(n_looks) / errors_allowed()
    value = table["value"]
    return tuple(value + (table[end] - value) * factor for end in ("low", "high"))


def calls(table: xr.Dataset, rules: dict, n_looks: int) -> xr.Dataset:
    """Which rules hold: a sign that is not there holds no rule.

    Args:
        table: along ``sign`` and more.
        rules: call -> sign -> one of :data:`BOUNDS` -> bound.
        n_looks: over which 5% is shared.

    Returns:
        Each call, true or false along the other dimensions.

    Raises:
        ValueError: an unknown bound.
    """
    (low, _), held = widened(table, n_looks), {call: [] for call in rules}
    for call, signs in rules.items():
        for sign, bounds in signs.items():
            for word, x in bounds.items():
                check_known("bound", word, BOUNDS)
                held[call].append(BOUNDS[word](low.sel(sign=sign), x))
    return xr.Dataset({name: xr.concat(parts, "rule").all("rule") for name, parts in held.items()})


def apart(table: xr.Dataset, world: str, others: list[str]) -> xr.DataArray:
    """In how many standard errors of their difference each sign of others differs from a world's.

    Args:
        table: along ``world`` and ``sign``.
        world: whose intervals and theirs are taken together.
        others: worlds too.

    Returns:
        (world, sign, ...) of other minus world: infinite where only the other lacks the sign, NaN
        where the world itself does.
    """
    table = table.assign(error=(table["high"] - table["low"]) / 2 / errors_allowed())
    one, other = table.sel(world=world, drop=True), table.sel(world=others)
    difference = other["value"] - one["value"]
    distance = difference / np.hypot(one["error"], other["error"])
    distance = distance.where(difference != 0, 0.0)  # alike, also where neither has an error
    return distance.fillna(np.inf).where(one["value"].notnull())


def simplest(distances: xr.DataArray) -> str | None:
    """The first of some worlds that no sign tells apart, or None; 5% is shared over the signs.

    Args:
        distances: (world, sign) of :func:`apart`, from simple to complex.

    Raises:
        ValueError: no sign at all.
    """
    signs = distances.dropna("sign", how="all")
    within = (abs(signs) <= errors_allowed(signs.sizes["sign"])).all("sign")
    return next(iter(signs.world.values[within].tolist()), None)
