"""Where the class changes: the time t* of the transition and its width, and where layers cross."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import curve_fit

from hierphase.analysis import bootstrap
from hierphase.checks import check_finite, check_shape, fraction, fractions, increasing, naming


class Transition(NamedTuple):
    """Where the class goes, and over how long.

    Attributes:
        t_star: time of the transition, in the units of the times given.
        width: time that the fall takes; each function below says how it measures it.
    """

    t_star: bootstrap.Estimate
    width: bootstrap.Estimate


def crossing_time(times: np.ndarray, curves: np.ndarray, level: float) -> np.ndarray:
    """Earliest time at which curves fall to a level, interpolated linearly between the times.

    Args:
        times: (n_times,) increasing.
        curves: (..., n_times).
        level: the level to cross from above.

    Returns:
        (...) crossing times; NaN where a curve starts below the level or never comes down to it
        between two of its numbers (others may be NaN).

    Raises:
        ValueError: times that do not increase, or curves of another length.
    """
    times, curves = increasing("times", times), np.asarray(curves, dtype=float)
    check_shape("curves", curves, "...", len(times))
    falls = (curves[..., :-1] > level) & (curves[..., 1:] <= level)
    after = falls.argmax(axis=-1) + 1
    pairs = np.take_along_axis(curves, after[..., None] + [-1, 0], axis=-1)
    high, low = np.moveaxis(pairs, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = (high - level) / (high - low)
    crossing = times[after - 1] + fraction * (times[after] - times[after - 1])
    return np.where(falls.any(axis=-1) & (curves[..., 0] > level), crossing, np.nan)


def transition_time(times, kept, chance, confidence=0.95, **resampling) -> bootstrap.Estimate:
    """t*: where the probability of keeping the class is half-way between 1 and chance.

    Args:
        times: (n_times,) increasing reversal times.
        kept: (n_times, n) whether image i had its class at time k.
        chance: plateau of the probability at large times, e.g. one over the number of classes.
        confidence: of the interval.
        resampling: ``where``, ``n_resamples``, ``seed`` and ``groups`` of
            :func:`~hierphase.analysis.bootstrap.means_and_resamples`.

    Returns:
        t* with its percentile bootstrap interval, in the units of ``times``.

    Raises:
        ValueError: shapes that do not fit, kept flags outside [0, 1] or NaN, times that do not
            increase, chance or confidence out of range, or a curve that does not cross within the
            times, for all images or for a resample.

    Example:
        >>> import numpy as np
        >>> from hierphase import transition_time
        >>> times = np.linspace(0, 1, 11)
        >>> keeps = 1 / (1 + np.exp((times - 0.6) / 0.05))
        >>> random = np.random.default_rng(0).random((11, 500))
        >>> t_star = transition_time(times, random < 0.1 + 0.9 * keeps[:, None], chance=0.1)
        >>> print(f"{t_star.value:.2f}, from {t_star.low:.2f} to {t_star.high:.2f}")
        0.60, from 0.59 to 0.61
    """
    curves, level = _kept_curves(times, kept, chance, **resampling), (1 + chance) / 2
    value, resampled = (crossing_time(times, curve, level) for curve in curves)
    if np.isnan(value) or np.isnan(resampled).any():
        found = f"the probability of keeping the class, {curves[0].round(3).tolist()},"
        remedy = f"give more images, or times beyond {times[0]:g} to {times[-1]:g}"
        raise ValueError(f"{found} does not cross {level:g} safely: {remedy}")
    return bootstrap.percentile_estimate(value, resampled, confidence)


def fitted_transition(times, kept, chance: float, n_resamples=300, **resampling) -> Transition:
    r"""t* and width from a logistic fit, by least squares over the times.

    .. math:: P(t) = \mathrm{chance} + \frac{1 - \mathrm{chance}}{1 + e^{(t - t^*)/w}}

    The width is the time from 90% to 10% of the fall, :math:`2 \ln(9) w`.

    Args and errors: as :func:`transition_time`; a fit that does not converge is a ValueError too.
    """
    start = transition_time(times, kept, chance, n_resamples=2).value

    def fall(t, t_star, w):
        return chance + (1 - chance) / (1 + np.exp(np.clip((t - t_star) / w, -500, 500)))

    def fit(curve):
        with naming(f"no logistic curve fits {curve.round(3).tolist()}"):
            found, _ = curve_fit(fall, times, curve, p0=(start, np.ptp(times) / 20), maxfev=5000)
        return found[0], 2 * np.log(9) * abs(found[1])

    def fits(curves):
        return np.moveaxis(np.apply_along_axis(fit, -1, curves), -1, 0)

    return _transition(fits, times, kept, chance, n_resamples=n_resamples, **resampling)


def steepest_transition(times, kept, chance: float, **resampling) -> Transition:
    """t* and width from the steepest drop, without a model of the curve.

    The slopes between neighbouring times sit at the middles of their intervals; t* is the top of
    the parabola through the steepest and its two neighbours, the width (1 - chance) over the
    steepest slope: the time a fall at that slope would take.

    Args and errors: as :func:`transition_time`, with 4 times at least; instead of a curve that does
    not cross, one that never falls is refused.
    """
    times = increasing("times", times, minimum=4)
    middles = (times[1:] + times[:-1]) / 2

    def steepest(curves):
        slopes = -np.diff(curves, axis=-1) / np.diff(times)
        if (rising := ~(slopes > 0).any(axis=-1)).any():
            kept = curves[rising][0].round(3).tolist()
            raise ValueError(f"the probability of keeping the class never falls: {kept}")
        i = slopes.argmax(axis=-1)
        a = i.clip(1, len(middles) - 2)[..., None] + np.array([-1, 0, 1])
        x, y = middles[a], np.take_along_axis(slopes, a, axis=-1)
        # vertex of the parabola by divided differences
        first = np.diff(y, axis=-1) / np.diff(x, axis=-1)
        second = (first[..., 1] - first[..., 0]) / (x[..., 2] - x[..., 0])
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = (x[..., 0] + x[..., 1]) / 2 - first[..., 0] / (2 * second)
        inside = (second < 0) & (vertex >= x[..., 0]) & (vertex <= x[..., 2])
        t_star = np.where(inside, vertex, middles[i])
        return t_star, (1 - chance) / slopes.max(axis=-1)

    return _transition(steepest, times, kept, chance, **resampling)


def unrelated_agreement(before: np.ndarray, after: np.ndarray) -> float:
    """Probability that two unrelated images agree in class: the plateau of keeping a class.

    Args:
        before: (n,) class of each image of one kind.
        after: (k,) class of each image of the other kind.

    Returns:
        Share of the pairs that agree, the sum over classes of the product of their shares; 1/C for
        C classes when one is balanced.

    Raises:
        ValueError: no images of a kind, or a class that is NaN.
    """
    kinds = np.asarray(before), np.asarray(after)
    for kind in kinds:
        check_finite("classes", kind, "n")
    return float(np.equal.outer(*kinds).mean())


def width_from_draws(ln_snr, kept, chance, confidence=0.95) -> bootstrap.Estimate:
    r"""In what range of ln SNR a single image loses its class, from one draw at each level.

    With K = (kept - chance) / (1 - chance) it is the mean over images of

    .. math:: 2 \ln 9 \int \mathrm E[K] (1 - \mathrm E[K])\, d \ln \mathrm{SNR},

    the distance from K = .9 to K = .1 where each image's own K is logistic, whatever their middles.
    The product is that of neighbouring levels, whose draws are independent; their distance h adds
    up to 2 ln(9) h^2 / 12w to 2 ln(9) w.

    Args:
        ln_snr: (n_levels,) increasing, finite, from where all classes are lost to where all stay.
        kept: (n_levels, n) whether image i had its class at level k.
        chance: (n,) plateau of each image, the share of its class among unrelated images.
        confidence: of the interval, over images.

    Raises:
        ValueError: levels that do not increase, or flags or plateaus of another shape or outside
            [0, 1].

    Example:
        >>> import numpy as np
        >>> from hierphase.analysis.transition import width_from_draws
        >>> ln_snr, random = np.linspace(-12, 12, 97)[:, None], np.random.default_rng(0)
        >>> keeps = 1 / (1 + np.exp(-2 * (ln_snr - random.normal(scale=1.5, size=500))))
        >>> kept = random.random(keeps.shape) < keeps  # each loses it within ln(9) = 2.2
        >>> print(f"{width_from_draws(ln_snr[:, 0], kept, np.zeros(500)):.1f}")
        2.3 (2.2 to 2.3)
    """
    check_shape("kept flags", kept, len(increasing("ln_snr", ln_snr)), "n")
    chance = fractions("chance", chance)
    k = (fractions("kept flags", np.asarray(kept, dtype=float)) - chance) / (1 - chance)
    products = k[1:] * (1 - k[:-1]) + k[:-1] * (1 - k[1:])
    widths = np.log(9) * np.diff(ln_snr) @ products
    return bootstrap.function_of_mean(lambda mean: mean, widths, confidence)


def layer_crossing(times, early, late, confidence=0.95, **resampling) -> bootstrap.Estimate | None:
    """Where the mean similarity of a late layer falls below that of an early one, after its lead.

    Looked for from the largest mean lead on: at little noise both are near 1, and which of them is
    above is noise.

    Args:
        times: (n_times,) increasing.
        early: (n_times, n) similarities of the early layer.
        late: (n_times, n) those of the late layer, of the same images.
        confidence: of the interval.
        resampling: as of :func:`transition_time`.

    Returns:
        The crossing with its interval, or None where the late layer is not above the early one
        there and below it later, in all but a share (1 - confidence) of the resamples.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, times that do not increase, or
            confidence outside (0, 1).
    """
    gap = _gap(times, early, late)
    curves = bootstrap.means_and_resamples(gap, **resampling)
    led = slice(min(curves[0].argmax(), len(gap) - 2), None)
    crossings = (crossing_time(times[led], curve[..., led], level=0) for curve in curves)
    return bootstrap.estimate_if_found(*crossings, confidence)


def largest_gaps(times, early, late, confidence=0.95, n_resamples=2000, seed=0, groups=None):
    """How far the mean similarity of a late layer gets above that of an early one, and below it.

    Curves cross where both are above zero. The largest of many noisy numbers would always be; so
    one half of the images says at which time the gap is largest, the other half how large it is
    there, and the two ways of doing so are averaged.

    Args and errors: as :func:`layer_crossing`, and fewer than two images.

    Returns:
        The largest lead of the late layer over all times, and its largest deficit.
    """
    gap = _gap(times, early, late)
    if gap.shape[1] < 2:
        raise ValueError(f"need at least two images, got {gap.shape[1]}")
    halves = []  # of each the mean gap at each time, then its resamples
    for k in (0, 1):
        own = None if groups is None else groups[k::2]
        found = bootstrap.means_and_resamples(gap[:, k::2], None, n_resamples, seed + k, own)
        halves.append(np.vstack(found))

    def largest(sign):
        """At the time that the other half names."""
        gaps = 0
        for own, other in (halves, halves[::-1]):
            at = (sign * other).argmax(axis=1, keepdims=True)
            gaps = gaps + sign * np.take_along_axis(own, at, axis=1)[:, 0] / 2
        return bootstrap.percentile_estimate(gaps[0], gaps[1:], confidence)

    return largest(1), largest(-1)


def _gap(times, early, late) -> np.ndarray:
    """Similarities of the late layer minus those of the early, (n_times, n), or a ValueError."""
    increasing("times", times)
    check_shape("similarities of the early layer", early, len(times), "n")
    check_shape("similarities of the late layer", late, *np.shape(early))
    return np.subtract(late, early)


def _kept_curves(times, kept, chance, **resampling):
    """Probability of keeping the class at each time, and its resamples, or a ValueError."""
    check_shape("kept flags", kept, len(increasing("times", times)), "n")
    if fraction("chance", chance) == 1:
        raise ValueError(f"chance must be below 1, got {chance}")
    kept = fractions("kept flags", np.asarray(kept, dtype=float))
    return bootstrap.means_and_resamples(kept, **resampling)


def _transition(measure, times, kept, chance, confidence=0.95, **resampling) -> Transition:
    """``measure`` gives t* (...) and width (...) of curves (..., n_times)."""
    found = zip(*map(measure, _kept_curves(times, kept, chance, **resampling)), strict=True)
    return Transition(*(bootstrap.percentile_estimate(*parts, confidence) for parts in found))
