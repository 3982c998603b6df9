"""How many training data a level of the hierarchy takes to be generated correctly."""

import numpy as np

from hierphase.analysis.bootstrap import Estimate, percentile_estimate, resampling_weights
from hierphase.analysis.transition import crossing_time
from hierphase.checks import fraction


def conditional_validity(
    valid: np.ndarray, candidates: np.ndarray, n_resamples: int = 500, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
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
        ValueError: shapes that differ, or more valid nodes than candidates.
    """
    valid, candidates = np.asarray(valid, dtype=float), np.asarray(candidates, dtype=float)
    if valid.shape != candidates.shape or valid.ndim < 2:
        raise ValueError(
            f"valid and candidates must be of one shape (..., n, levels), got {valid.shape} and "
            f"{candidates.shape}"
        )
    if (valid > candidates).any():
        excess = int((valid > candidates).sum())
        raise ValueError(f"more valid nodes than candidates in {excess} places")
    weights = resampling_weights(valid.shape[-2], n_resamples, seed)
    weights = np.concatenate([np.full((1, valid.shape[-2]), 1 / valid.shape[-2]), weights])
    with np.errstate(invalid="ignore"):
        shares = np.einsum("rn,...nl->r...l", weights, valid) / np.einsum(
            "rn,...nl->r...l", weights, candidates
        )
    return shares[0], shares[1:]


def size_thresholds(
    sizes: np.ndarray,
    shares: np.ndarray,
    resampled: np.ndarray,
    chance: float,
    confidence: float = 0.95,
) -> tuple[list[Estimate | None], Estimate | None]:
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
    sizes, chance = np.asarray(sizes, dtype=float), fraction("chance", chance)
    if len(sizes) < 2 or not (np.diff(sizes) > 0).all():
        raise ValueError(f"need at least two sizes, which increase, got {sizes.tolist()}")
    if shares.shape[0] != len(sizes) or resampled.shape[1:] != shares.shape:
        raise ValueError(
            f"got {len(sizes)} sizes for shares of shape {shares.shape} and resamples of shape "
            f"{resampled.shape}"
        )
    together = np.concatenate([shares[None], resampled])
    # From the largest size down a curve falls, which is the direction of crossing_time.
    falling = together.swapaxes(1, 2)[..., ::-1]
    logs = -crossing_time(-np.log(sizes[::-1]), falling, (1 + chance) / 2)
    found = ~np.isnan(logs[0]) & (np.isnan(logs[1:]).mean(axis=0) <= 1 - confidence)
    thresholds = [
        percentile_estimate(
            float(np.exp(column[0])), np.exp(column[1:][~np.isnan(column[1:])]), confidence
        )
        if reached
        else None
        for column, reached in zip(logs.T, found, strict=True)
    ]
    if found.sum() < 2:
        return thresholds, None
    levels = np.flatnonzero(found) + 1.0
    whole = logs[~np.isnan(logs[:, found]).any(axis=1)][:, found]
    growth = (whole @ (levels - levels.mean())) / ((levels - levels.mean()) ** 2).sum()
    return thresholds, percentile_estimate(float(growth[0]), growth[1:], confidence)
