"""Where the class changes: the probability of keeping it, and the time t* of the transition."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A number or curve with its bootstrap interval over images.

    Attributes:
        value: the estimate from all images.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: np.ndarray | float
    low: np.ndarray | float
    high: np.ndarray | float


def bootstrap_means(values: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Means over resampled images.

    One multinomial draw of weights per resample; an image keeps its whole curve, so that the
    correlation between times is respected.

    Args:
        values: (n_times, n) one number per time and image.
        n_resamples: how many resamples.
        seed: of the resampling.

    Returns:
        (n_resamples, n_times).
    """
    n = values.shape[-1]
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples) / n
    return weights @ values.T


def mean_curve(
    values: np.ndarray, confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean over images at each time, with a percentile bootstrap band.

    For kept-class flags this is the probability of keeping the class; for similarities of a layer,
    its mean curve.

    Args:
        values: (n_times, n) flags or numbers.
        confidence: of the band, between 0 and 1.
        n_resamples: bootstrap resamples over images.
        seed: of the resampling.

    Returns:
        Curves of shape (n_times,).

    Raises:
        ValueError: a wrong shape, NaN, or confidence outside (0, 1).
    """
    values = _checked(values, confidence)
    means = bootstrap_means(values, n_resamples, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Estimate(values.mean(axis=1), low, high)


def crossing_time(times: np.ndarray, curves: np.ndarray, level: float) -> np.ndarray:
    """Earliest time at which curves fall to a level, interpolated linearly between the times.

    Args:
        times: (n_times,) increasing.
        curves: (..., n_times).
        level: the level to cross from above.

    Returns:
        (...) crossing times; NaN where a curve starts below the level or never comes down to it.
    """
    times, curves = np.asarray(times, dtype=float), np.asarray(curves, dtype=float)
    falls = (curves[..., :-1] > level) & (curves[..., 1:] <= level)
    after = falls.argmax(axis=-1) + 1
    high = np.take_along_axis(curves, after[..., None] - 1, axis=-1)[..., 0]
    low = np.take_along_axis(curves, after[..., None], axis=-1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = (high - level) / (high - low)
    crossing = times[after - 1] + fraction * (times[after] - times[after - 1])
    return np.where(falls.any(axis=-1) & (curves[..., 0] > level), crossing, np.nan)


def transition_time(
    times: np.ndarray,
    kept: np.ndarray,
    chance: float,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """t*: where the probability of keeping the class is half-way between 1 and chance.

    Args:
        times: (n_times,) increasing reversal times.
        kept: (n_times, n) whether image i had its class at time k.
        chance: plateau of the probability at large times, e.g. one over the number of classes.
        confidence: of the interval.
        n_resamples: bootstrap resamples over images.
        seed: of the resampling.

    Returns:
        t* with its percentile bootstrap interval, in the units of ``times``.

    Raises:
        ValueError: shapes that do not fit, times that do not increase, chance outside [0, 1), or a
            curve that does not cross within the times, for all images or for a resample.
    """
    kept = _checked(kept, confidence)
    times = np.asarray(times, dtype=float)
    if times.shape != kept.shape[:1]:
        raise ValueError(f"got {times.shape} times for kept flags of shape {kept.shape}")
    if not (np.diff(times) > 0).all():
        raise ValueError(f"times must increase, got {times.tolist()}")
    if not 0 <= chance < 1:
        raise ValueError(f"chance must be in [0, 1), got {chance}")
    level = (1 + chance) / 2
    value = crossing_time(times, kept.mean(axis=1), level)
    resampled = crossing_time(times, bootstrap_means(kept, n_resamples, seed), level)
    if np.isnan(value) or np.isnan(resampled).any():
        raise ValueError(
            f"the probability of keeping the class, {kept.mean(axis=1).round(3).tolist()}, does "
            f"not cross {level:g} safely between times {times[0]:g} and {times[-1]:g}: give "
            "times further out, or more images"
        )
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(value), float(low), float(high))


def _checked(values, confidence: float) -> np.ndarray:
    """``values`` as a float array (n_times, n), or a ValueError."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"need values of shape (n_times, n), got {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"values hold {int(np.isnan(values).sum())} NaN; leave those images out")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return values
