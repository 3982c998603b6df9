"""How many training data a level of the hierarchy takes to be generated correctly."""

import numpy as np

from hierphase.analysis.bootstrap import bootstrap, estimate_if_found, percentile_estimate
from hierphase.analysis.transition import crossing_time
from hierphase.checks import check_finite, check_shape, fraction, increasing


def conditional_validity(valid, candidates, n_resamples: int = 500, seed: int = 0) -> tuple:
    """Share of the nodes with valid children that are valid themselves.

    It asks for the rules of one level alone: what went wrong below is not counted again.

    Args:
        valid: (..., n, levels) how many nodes of generated datum i can be parsed.
        candidates: like ``valid``, how many have children that all can.
        n_resamples: bootstrap resamples over the n data, the same for all (...).
        seed: of the resampling.

    Returns:
        The share (..., levels), and its resamples (n_resamples, ..., levels); NaN without
        candidates.

    Raises:
        ValueError: shapes that differ, numbers of nodes that are negative or not finite, or more
            valid nodes than candidates.
    """
    check_shape("valid", valid, "... n levels")
    check_finite("candidates", np.asarray(candidates), *np.shape(valid))
    if not np.greater_equal(valid, 0).all():
        raise ValueError(f"valid must not be negative or NaN, got {np.min(valid)}")
    if (excess := np.greater(valid, candidates)).any():
        raise ValueError(f"more valid nodes than candidates in {excess.sum()} places")

    def shares(weights):
        sums = [np.einsum("rn,...nl->r...l", weights, x) for x in (valid, candidates)]
        with np.errstate(invalid="ignore"):
            return sums[0] / sums[1]

    return bootstrap(shares, np.shape(valid)[-2], n_resamples, seed)


def size_thresholds(sizes, shares, resampled, chance: float, confidence=0.95) -> tuple:
    """P_l, where the validity of level l is half-way from chance to 1, and its growth with l.

    P_l is interpolated linearly in log P. Where a noisy curve crosses more than once, the crossing
    at the largest size counts: from there on the level is learned. The growth is the slope of log
    P_l against l by least squares; theory has log m.

    Args:
        sizes: (n_sizes,) increasing training set sizes.
        shares: (n_sizes, levels) validity of levels 1, 2, ..., of :func:`conditional_validity`.
        resampled: (n_resamples, n_sizes, levels) its resamples.
        chance: validity of a node that knows nothing of its level's rules.
        confidence: of the intervals.

    Returns:
        One estimate a level, None where more than a share (1 - confidence) of the resamples does
        not cross within the sizes; and the growth over the levels that do, None for fewer than two.

    Raises:
        ValueError: fewer than two sizes, sizes that do not increase, or shapes that do not fit.
    """
    sizes, chance = increasing("sizes", sizes), fraction("chance", chance)
    check_shape("shares", shares, len(sizes), "levels")
    check_shape("resampled", resampled, "n_resamples", *shares.shape)
    # From the largest size down a curve falls, which is the direction of crossing_time.
    curves, middle = (x.swapaxes(-1, -2)[..., ::-1] for x in (shares, resampled)), (1 + chance) / 2
    logs, resampled_logs = (-crossing_time(-np.log(sizes[::-1]), x, middle) for x in curves)
    found = zip(np.exp(logs), np.exp(resampled_logs).T, strict=True)
    thresholds = [estimate_if_found(*of_level, confidence) for of_level in found]
    reached = np.array([threshold is not None for threshold in thresholds])
    if reached.sum() < 2:
        return thresholds, None
    levels = np.flatnonzero(reached) - np.flatnonzero(reached).mean()
    value, draws = (x[..., reached] @ levels / (levels @ levels) for x in (logs, resampled_logs))
    return thresholds, percentile_estimate(value, draws[~np.isnan(draws)], confidence)
