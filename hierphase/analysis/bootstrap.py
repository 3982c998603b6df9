"""Means, medians and modes over images, with bootstrap bands.

All are statistics of weights, which say how much each image counts: equal weights give the value,
random ones its resamples (:func:`bootstrap`). An image keeps its whole curve, so that the
correlation between times is respected.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from hierphase.checks import check_finite, check_memory, check_shape, fractions, positive_integer


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

    def __format__(self, spec: str) -> str:
        """In words: value (low to high), a number each, written as ``spec`` says."""
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference of independent estimates, each end in quadrature from those it is of."""
        value = self.value - other.value
        below = np.hypot(self.value - self.low, other.high - other.value)
        above = np.hypot(self.high - self.value, other.value - other.low)
        return Estimate(value, value - below, value + above)


def bootstrap(statistic: Callable, n: int, n_resamples=2000, seed=0, groups=None) -> tuple:
    """A statistic of n images, and of resamples of them.

    Args:
        statistic: its values (k, ...) for weights (k, n) of the images, in each row 1 on average.
        n: number of images.
        n_resamples: how many resamples.
        seed: of the resampling.
        groups: (n,) what each image belongs to, e.g. a draw of the rules. Groups are drawn first,
            then images within them, so that both vary. None draws images only.

    Returns:
        The statistic of all images (...), and of each resample (n_resamples, ...).

    Raises:
        ValueError: ``groups`` of another length, n_resamples no positive integer, or too
            many for the memory.
    """
    n_resamples = positive_integer("n_resamples", n_resamples)
    check_memory(16 * n_resamples * n, "resamples", n_resamples=n_resamples, n=n)
    groups = np.zeros(n) if groups is None else groups
    check_shape("groups", groups, n)
    rng = np.random.default_rng(seed)
    names, members = np.unique(groups, return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
    weights = np.empty((n_resamples, n))
    for group, times in enumerate(drawn.T):
        (inside,) = np.nonzero(members == group)
        share = np.full(len(inside), 1 / len(inside))
        weights[:, inside] = rng.multinomial(times * len(inside), share)
    weights /= weights.mean(axis=1, keepdims=True)
    values = statistic(np.vstack([np.ones(n), weights]))
    return values[0], values[1:]


def percentile_estimate(value, resampled: np.ndarray, confidence: float = 0.95) -> Estimate:
    """The value with the percentile interval of its resamples.

    Args:
        value: a number or an array (...).
        resampled: (n_resamples, ...).
        confidence: of the interval, between 0 and 1.

    Raises:
        ValueError: another confidence.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    ends = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Estimate(*(x if np.ndim(x) else float(x) for x in (value, *ends)))


def estimate_if_found(value: float, resampled: np.ndarray, confidence: float) -> Estimate | None:
    """:func:`percentile_estimate` of a number that some resamples may lack (NaN).

    None where the value is lacking, or more than a share (1 - confidence) of the resamples.
    """
    lacking = np.isnan(resampled)
    if np.isnan(value) or lacking.mean() > 1 - confidence:
        return None
    return percentile_estimate(value, resampled[~lacking], confidence)


def means_and_resamples(values, where=None, n_resamples=2000, seed=0, groups=None) -> tuple:
    """Mean over images at each time, and its resamples.

    Args:
        values: (n_times, n) flags or numbers.
        where: (n_times, n) flags of what counts, e.g. where the classifier is sure, or weights
            from 0 to 1; by default everything.
        n_resamples, seed, groups: as of :func:`bootstrap`.

    Returns:
        (n_times,) and (n_resamples, n_times).

    Raises:
        ValueError: wrong shapes, NaN or infinity, flags outside [0, 1], or a time at which too few
            images count.
    """
    values = _numbers(values)
    where = fractions("where", np.ones_like(values) if where is None else np.asarray(where, float))
    check_shape("where", where, *values.shape)

    def means(weights):
        counts = weights @ where.T
        if not counts.all():
            counted = where.sum(axis=1).astype(int).tolist()
            raise ValueError(f"too few images count at some time: {counted} of {where.shape[1]}")
        return weights @ (values * where).T / counts

    return bootstrap(means, values.shape[1], n_resamples, seed, groups)


def mean_curve(values: np.ndarray, where=None, confidence: float = 0.95, **resampling) -> Estimate:
    """Mean over images at each time, with a percentile bootstrap band.

    For kept-class flags this is the probability of keeping the class; for similarities of a layer,
    its mean curve. Arguments and errors as of :func:`means_and_resamples` and
    :func:`percentile_estimate`.

    Returns:
        Curves of shape (n_times,).
    """
    return percentile_estimate(*means_and_resamples(values, where, **resampling), confidence)


def median_curve(values: np.ndarray, confidence: float = 0.95, n_resamples: int = 500) -> Estimate:
    """Median over images at each time, with a percentile bootstrap band; see :func:`mean_curve`."""
    values = _numbers(values)

    def medians(row, weights):
        order = row.argsort()
        below = weights[:, order].cumsum(axis=1) < len(row) * (0.5 - 1e-9)
        return row[order][below.sum(axis=1)]

    _, resampled = _by_time(medians, values, n_resamples)
    return percentile_estimate(np.median(values, axis=1), resampled, confidence)


def mode_curve(values: np.ndarray, confidence: float = 0.95, n_resamples: int = 500) -> Estimate:
    """Most frequent similarity at each time, with a percentile bootstrap band.

    The value that the paper plots. The mode is that of a Gaussian kernel density of the values
    (Silverman's bandwidth, at least 0.01) on 401 points from -1 to 1.

    Args:
        values: (n_times, n) cosine similarities, in [-1, 1].
        confidence: of the band, between 0 and 1.
        n_resamples: bootstrap resamples over images.

    Returns:
        Curves of shape (n_times,).

    Raises:
        ValueError: as :func:`mean_curve`, or values outside [-1, 1].
    """
    values = _numbers(values)
    if not (np.abs(values) <= 1 + 1e-5).all():
        raise ValueError(f"need similarities in [-1, 1], got {values.min():g} to {values.max():g}")
    grid = np.linspace(-1, 1, 401)

    def modes(row, weights):
        place = np.rint((row.clip(-1, 1) + 1) * 200).astype(int)
        bandwidth = max(0.01, 0.9 * row.std() * len(row) ** -0.2)
        density = gaussian_filter1d(weights @ np.eye(401)[place], bandwidth * 200, mode="reflect")
        return grid[density.argmax(axis=1)]

    return percentile_estimate(*_by_time(modes, values, n_resamples), confidence)


def function_of_mean(function: Callable, values, confidence=0.95, n_resamples=500) -> Estimate:
    """A function of the mean over images, such as a ratio of two means, with its interval.

    Args:
        function: of means (k, ...), of all images and of every resample; it must keep that axis.
        values: (n, ...), one array for each image.
        confidence: of the percentile interval.
        n_resamples: bootstrap resamples over images.

    Raises:
        ValueError: no images, or confidence outside (0, 1).
    """
    return percentile_estimate(*resampled_function(function, values, n_resamples), confidence)


def resampled_function(function: Callable, values, n_resamples=2000, seed=0) -> tuple:
    """A function of the mean over images, and of resamples; see :func:`function_of_mean`."""
    check_shape("values", values, "n ...")

    def of_means(weights):
        return function(np.tensordot(weights, values, axes=1) / len(values))

    return bootstrap(of_means, len(values), n_resamples, seed)


def _by_time(statistic: Callable, values: np.ndarray, n_resamples: int) -> tuple:
    """:func:`bootstrap` of a statistic of the numbers (n,) at each time and weights (k, n)."""

    def of_times(weights):
        return np.stack([statistic(row, weights) for row in values], axis=1)

    return bootstrap(of_times, values.shape[1], n_resamples)


def _numbers(values) -> np.ndarray:
    """``values`` as a float array (n_times, n), or a ValueError; NaN or infinity is one too."""
    values = np.asarray(values, dtype=float)
    check_finite("values", values, "n_times n")
    return values
