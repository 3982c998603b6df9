"""Means, medians and modes over images, with bootstrap bands."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d


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


def resampling_weights(
    n: int, n_resamples: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Bootstrap weights (n_resamples, n): how often each of n images is drawn, over n.

    Args:
        n: number of images.
        n_resamples: how many resamples.
        seed: of the resampling.
        groups: (n,) what each image belongs to, e.g. a draw of the rules. Groups are drawn first,
            then images within them, so that both vary. None draws images only.

    Raises:
        ValueError: ``groups`` of another length.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) / n
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(f"groups must be of shape {(n,)}, got {groups.shape}")
    names, members = np.unique(groups, return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
    weights = np.empty((n_resamples, n))
    for group, times in enumerate(drawn.T):
        (inside,) = np.nonzero(members == group)
        share = np.full(len(inside), 1 / len(inside))
        weights[:, inside] = rng.multinomial(times * len(inside), share)
    return weights / weights.sum(axis=1, keepdims=True)


def bootstrap_means(
    values: np.ndarray, n_resamples: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Means over resampled images.

    One multinomial draw of weights per resample; an image keeps its whole curve, so that the
    correlation between times is respected.

    Args:
        values: (n_times, n) one number per time and image.
        n_resamples: how many resamples.
        seed: of the resampling.
        groups: (n,) as for :func:`resampling_weights`.

    Returns:
        (n_resamples, n_times).
    """
    return resampling_weights(values.shape[-1], n_resamples, seed, groups) @ values.T


def mean_curve(
    values: np.ndarray,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    where: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Estimate:
    """Mean over images at each time, with a percentile bootstrap band.

    For kept-class flags this is the probability of keeping the class; for similarities of a layer,
    its mean curve.

    Args:
        values: (n_times, n) flags or numbers.
        confidence: of the band, between 0 and 1.
        n_resamples: bootstrap resamples over images.
        seed: of the resampling.
        where: (n_times, n) flags of what counts, e.g. where the classifier is sure; by default
            everything.
        groups: (n,) what each image belongs to, see :func:`resampling_weights`.

    Returns:
        Curves of shape (n_times,).

    Raises:
        ValueError: a wrong shape, NaN, confidence outside (0, 1), or a time at which too few count.
    """
    values = checked_values(values, confidence)
    value, resampled = means_and_resamples(values, where, n_resamples, seed, groups)
    return percentile_estimate(value, resampled, confidence)


def median_curve(
    values: np.ndarray, confidence: float = 0.95, n_resamples: int = 500, seed: int = 0
) -> Estimate:
    """Median over images at each time, with a percentile bootstrap band; see :func:`mean_curve`."""
    values = checked_values(values, confidence)
    weights = resampling_weights(values.shape[1], n_resamples, seed)
    resampled = []
    for row in values:
        order = row.argsort()
        cumulated = weights[:, order].cumsum(axis=1)
        resampled.append(row[order][(cumulated < 0.5 - 1e-9).sum(axis=1)])
    return percentile_estimate(np.median(values, axis=1), np.stack(resampled, axis=1), confidence)


def mode_curve(
    values: np.ndarray, confidence: float = 0.95, n_resamples: int = 500, seed: int = 0
) -> Estimate:
    """Most frequent similarity at each time, with a percentile bootstrap band.

    The value that the paper plots. The mode is that of a Gaussian kernel density of the values
    (Silverman's bandwidth, at least 0.01) on 401 points from -1 to 1.

    Args:
        values: (n_times, n) cosine similarities, in [-1, 1].
        confidence: of the band, between 0 and 1.
        n_resamples: bootstrap resamples over images.
        seed: of the resampling.

    Returns:
        Curves of shape (n_times,).

    Raises:
        ValueError: as :func:`mean_curve`, or values outside [-1, 1].
    """
    values = checked_values(values, confidence)
    if not (np.abs(values) <= 1 + 1e-5).all():
        raise ValueError(f"need similarities in [-1, 1], got {values.min():g} to {values.max():g}")
    grid = np.linspace(-1, 1, 401)
    bins = np.rint((values.clip(-1, 1) + 1) * 200).astype(int)
    weights = resampling_weights(values.shape[1], n_resamples, seed)
    weights = np.concatenate([np.full((1, values.shape[1]), 1 / values.shape[1]), weights])
    modes = []
    for row, place in zip(values, bins, strict=True):
        bandwidth = max(0.01, 0.9 * row.std() * len(row) ** -0.2)
        counts = weights @ np.eye(401)[place]
        density = gaussian_filter1d(counts, bandwidth * 200, axis=1, mode="reflect")
        modes.append(grid[density.argmax(axis=1)])
    modes = np.stack(modes, axis=1)
    return percentile_estimate(modes[0], modes[1:], confidence)


def function_of_mean(
    function, values: np.ndarray, confidence: float = 0.95, n_resamples: int = 500, seed: int = 0
) -> Estimate:
    """A function of the mean over images, such as a ratio of two means, with its interval.

    Args:
        function: of the mean, an array (...) without the first axis of ``values``. It is called
            once more with all resampled means (n_resamples, ...), and must keep that axis.
        values: (n, ...), one array for each image.
        confidence: of the percentile interval.
        n_resamples: bootstrap resamples over images.
        seed: of the resampling.

    Raises:
        ValueError: no images, or confidence outside (0, 1).
    """
    values = np.asarray(values, dtype=float)
    if values.ndim < 1 or len(values) == 0:
        raise ValueError(f"need values of shape (n, ...), got {values.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    weights = resampling_weights(len(values), n_resamples, seed)
    resampled = np.tensordot(weights, values, axes=1)
    return percentile_estimate(function(values.mean(axis=0)), function(resampled), confidence)


def means_and_resamples(
    values: np.ndarray,
    where: np.ndarray | None,
    n_resamples: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean curve of what counts, and its resamples.

    Args:
        values: (n_times, n).
        where: (n_times, n) flags of what counts, or None for everything.
        n_resamples: bootstrap resamples over images.
        seed: of the resampling.
        groups: (n,) as for :func:`resampling_weights`.

    Returns:
        (n_times,) and (n_resamples, n_times).

    Raises:
        ValueError: ``where`` of another shape, or a time at which too few images count.
    """
    where = np.ones(values.shape, bool) if where is None else np.asarray(where, dtype=bool)
    if where.shape != values.shape:
        raise ValueError(f"where must be of shape {values.shape}, got {where.shape}")
    sums, counts = (
        np.vstack([x.mean(axis=1), bootstrap_means(x, n_resamples, seed, groups)])
        for x in (values * where, where)
    )
    if not counts.all():
        raise ValueError(
            f"too few images count at some time: {where.sum(axis=1).tolist()} of {where.shape[1]}"
        )
    means = sums / counts
    return means[0], means[1:]


def percentile_estimate(value, resampled: np.ndarray, confidence: float) -> Estimate:
    """The value with the percentile interval of its resamples.

    Args:
        value: a number or an array (...).
        resampled: (n_resamples, ...).
        confidence: of the interval, between 0 and 1.
    """
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    if np.ndim(value) == 0:
        value, low, high = float(value), float(low), float(high)
    return Estimate(value, low, high)


def checked_values(values, confidence: float) -> np.ndarray:
    """``values`` as a float array.

    Raises:
        ValueError: not of shape (n_times, n) or empty, NaN, or confidence outside (0, 1).
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"need values of shape (n_times, n), got {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"values hold {int(np.isnan(values).sum())} NaN; leave those images out")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return values
