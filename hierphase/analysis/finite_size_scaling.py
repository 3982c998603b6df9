"""Critical exponents from finite trees: power-law fits and the collapse of curves of many sizes."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import minimize

from hierphase.checks import check_finite, check_shape, increasing


def power_law(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    r"""Exponents g of :math:`y \sim x^g`, by least squares on both logarithms.

    Args:
        x: (n,) positive.
        y: (..., n) positive.

    Returns:
        (...) exponents.

    Raises:
        ValueError: fewer than two points, all x the same, or values that are not positive, finite
            numbers.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    check_shape("x", x, "n")
    check_shape("y", y, "...", *x.shape)
    _check_positive(x=x, y=y)
    if np.ptp(x) == 0:
        raise ValueError(f"x must hold two different numbers, got {x[0]:g} alone")
    log_x = np.log(x) - np.log(x).mean()
    return np.log(y) @ log_x / (log_x @ log_x)


def koenigs(x, inverse: Callable, fixed: float, factor: float):
    r"""Koenigs function of a map f at a fixed point, in which f is a multiplication.

    .. math:: \varphi(f(x)) = f'(x^*)\, \varphi(x), \qquad \varphi'(x^*) = 1

    It is the limit of :math:`f'(x^*)^n [f^{-n}(x) - x^*]`. So what f makes of x in L steps is one
    function of :math:`f'(x^*)^L \varphi(x)` at every L.

    Args:
        x: float or array, where the iterated inverse ends at the fixed point.
        inverse: x -> the number that f takes to x.
        fixed: the fixed point.
        factor: slope of f there, above 1.

    Raises:
        ValueError: the inverse does not come near the fixed point.
    """
    steps = int(np.ceil(np.log(1e7) / np.log(factor)))  # half of the digits of float64
    for _ in range(steps):
        x = inverse(x)
    if not np.all(abs(x - fixed) < 1e-3):
        raise ValueError(f"x must be where the inverse ends at {fixed}, it came to {x}")
    return factor**steps * (x - fixed)


def collapse_spread(x, y, sizes, nu: float, kappa: float, reach: float) -> float:
    """How far collapsed curves are apart: root mean square difference of ln y.

    Finite-size scaling, y = size^kappa g(x size^(1/nu)), makes one curve of all sizes. Every curve
    is compared, at its points with ``|x| <= reach``, with all others that extend so far on the
    scaled axis, interpolated by cubics. (After Bhattacharjee and Seno, 2001.)

    Args:
        x: (n,) distances to the critical point, increasing.
        y: (n_sizes, n).
        sizes: (n_sizes,) linear sizes.
        nu: exponent of the correlation length.
        kappa: exponent of y at the critical point.
        reach: half-width of the window that counts. It is one in x, not on the scaled axis, where
            a small nu would empty it.

    Returns:
        The spread, or infinity where no two curves overlap.

    Raises:
        ValueError: shapes that do not fit, x that does not increase, or y, sizes or nu that are not
            positive, finite numbers.
    """
    check_shape("y", y, len(sizes), len(increasing("x", x)))
    _check_positive(y=np.asarray(y), sizes=np.asarray(sizes), nu=np.asarray(nu))
    x, sizes = np.asarray(x), np.asarray(sizes, dtype=float)[:, None]
    scaled_x, logs = x * sizes ** (1 / nu), np.log(y * sizes**-kappa)
    inside, pairs = abs(x) <= reach, permutations(range(len(sizes)), 2)
    curves = [PchipInterpolator(*xy, extrapolate=False) for xy in zip(scaled_x, logs, strict=True)]
    # NaN beyond the ends of curve b
    squares = np.array([(logs[a, inside] - curves[b](scaled_x[a, inside])) ** 2 for a, b in pairs])
    return float(np.sqrt(np.nanmean(squares))) if np.isfinite(squares).any() else np.inf


def best_collapse(x, y, sizes, reach: float, start=(1.5, 1.0)) -> tuple[float, float, float]:
    """The exponents nu and kappa for which :func:`collapse_spread` is smallest, and that spread.

    Args:
        x, y, sizes, reach: as there.
        start: nu and kappa at which the search (Nelder-Mead) begins.

    Raises:
        ValueError: as there, or the search does not converge.
    """

    def spread(exponents):
        return collapse_spread(x, y, sizes, *exponents, reach) if exponents[0] > 0.2 else np.inf

    found = minimize(spread, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7})
    if not found.success or not np.isfinite(found.fun):
        raise ValueError(f"no collapse found from nu, kappa = {start}: {found.message}")
    return float(found.x[0]), float(found.x[1]), float(found.fun)


def _check_positive(**arrays):
    for name, values in arrays.items():
        check_finite(name, values)
        if not (values > 0).all():
            raise ValueError(f"{name} must be positive for a power law, got {values.min():g}")
