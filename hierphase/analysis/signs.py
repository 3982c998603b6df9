r"""Signs by which images might tell a hierarchy from anything flatter; each is one formula.

They see x_0, x̂_0 and classes, or posteriors of the class, and know no world: the same code reads
trees, mixtures and photographs. A *group* is all images of one (class of x_0, class of x̂_0);
groups are never pooled about additive means of the classes: pooled Gaussians couple falsely.
Contributions (n_groups, ..., 2) are each group's numerator and denominator, of which :func:`ratio`
takes the ratio of sums with an interval over groups.
"""

import numpy as np
import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from torch import Tensor
from torch.nn import functional

from hierphase.analysis import bootstrap
from hierphase.analysis.representations import Moments
from hierphase.checks import check_finite, check_shape, fractions, increasing


def order_parameter(posterior, labels, groups=None) -> np.ndarray:
    """K = (agreement - c) / (1 - c) of each x_0: 1 where its class is kept, 0 on average by chance.

    Args:
        posterior: (n, n_levels, C) share of each class, over the noises of one x_0 at one level:
            the mean of P(class | x_t), or how often each class came back.
        labels: (n,) class of x_0.
        groups: (C,) super-class of each class, two or more, see :func:`superclasses`; by default
            each class is its own.

    Returns:
        (n, n_levels), with c the sum of squared shares of the (super-)classes, 1/C for classes.
    """
    posterior = fractions("posterior", posterior)
    groups = np.arange(posterior.shape[2]) if groups is None else np.asarray(groups)
    same = groups[:, None] == groups
    agreement = (posterior * same[np.asarray(labels), None]).sum(axis=2)
    return (agreement - same.mean()) / (1 - same.mean())


def crossing(ln_snr, curves, level: float) -> np.ndarray:
    """ln SNR at which curves rise through a level.

    It is where the curve crosses that is monotone and above the level over the same total length
    (its rearrangement). Between several crossings of a noisy curve this errs to neither side: the
    nearest to the middle would make widths too small, the outermost too large.

    Args:
        ln_snr: (n_levels,) increasing; curves are linear in between.
        curves: (..., n_levels).
        level: to cross.

    Returns:
        (...), NaN where a curve does not begin below the level and end above it.
    """
    ln_snr, curves = increasing("ln_snr", ln_snr), np.asarray(curves, dtype=float)
    check_finite("curves", curves, "...", len(ln_snr))
    low, high = np.sort([curves[..., 1:], curves[..., :-1]], axis=0)
    slope = np.maximum(high - low, np.finfo(float).tiny)  # a flat piece is above, or is not
    above = np.clip((high - level) / slope, 0, 1) @ np.diff(ln_snr)
    crosses = (curves[..., 0] < level) & (curves[..., -1] > level)
    return np.where(crosses, ln_snr[-1] - above, np.nan)


def width(ln_snr, curves) -> np.ndarray:
    """ln SNR at K = .9 minus that at K = .1, as :func:`crossing`."""
    return crossing(ln_snr, curves, 0.9) - crossing(ln_snr, curves, 0.1)


def of_mean_curve(function, k, confidence=0.95) -> bootstrap.Estimate | None:
    """A number read off mean curves, with its interval by resampling x_0.

    Args:
        function: of mean curves (j, ..., n_levels), gives (j,).
        k: (n, ..., n_levels) of :func:`order_parameter`.
        confidence: of the interval.

    Returns:
        None where the mean curve or too many resamples have no such number (NaN), see
        :func:`~hierphase.analysis.bootstrap.estimate_if_found`.

    Example:
        >>> import numpy as np
        >>> from hierphase.analysis import signs
        >>> ln_snr, middles = np.linspace(-9, 9, 73), np.random.default_rng(0).normal(size=(200, 1))
        >>> k = np.tanh((ln_snr - middles) / 2) / 2 + 0.5
        >>> print(f"{signs.of_mean_curve(lambda k: signs.crossing(ln_snr, k, 0.5), k):.1f}")
        0.0 (-0.1 to 0.2)
    """
    return bootstrap.estimate_if_found(*bootstrap.resampled_function(function, k), confidence)


def width_per_image(ln_snr, k, confidence=0.95) -> tuple[bootstrap.Estimate, float]:
    """Median over images of the :func:`width` of each one's own curve.

    An image whose K does not come from below .1 to above .9 is infinitely wide, and counts.

    Args:
        ln_snr: (n_levels,) increasing.
        k: (n, n_levels) of :func:`order_parameter`, each averaged over enough noises to be a curve.
        confidence: of the interval, by resampling x_0.

    Returns:
        The median, which may be infinity, and the share of infinite widths.
    """
    widths = width(ln_snr, k)
    inverse = np.where(np.isnan(widths), 0, 1 / widths)
    median = bootstrap.median_curve(inverse[None], confidence)
    with np.errstate(divide="ignore"):
        found = (float(1 / end[0]) for end in (median.value, median.high, median.low))
        return bootstrap.Estimate(*found), float(np.isnan(widths).mean())


def superclasses(x0: Tensor, labels: Tensor, n_groups: int) -> np.ndarray:
    """Super-class (C,) of each class, by average linkage of the distances of their mean images.

    Permuted at random it is a grouping of the same sizes.

    Args:
        x0: (n, ...) images, some of each class.
        labels: (n,) classes 0 to C - 1.
        n_groups: 2 to C - 1.
    """
    classes = int(labels.max()) + 1
    means = torch.stack([x0[labels == c].flatten(1).double().mean(0) for c in range(classes)])
    return cut_tree(linkage(means.cpu().numpy(), "average"), n_groups)[:, 0]


def ratio(contributions, over=None, confidence=0.95) -> bootstrap.Estimate:
    """Sum of numerators over sum of denominators, with its interval by resampling groups.

    Args:
        contributions: (n_groups, ..., 2).
        over: likewise, of other groups, whose ratio it is divided by: energies of kept images.
        confidence: of the interval.
    """
    value, draws = bootstrap.resampled_function(_quotient, contributions)
    if over is not None:
        other, of_other = bootstrap.resampled_function(_quotient, over, seed=1)
        value, draws = value / other, draws / of_other
    return bootstrap.percentile_estimate(value, draws, confidence)


def similarity_auc(x0, sampled, old, new, block: int | None = None) -> np.ndarray:
    """How often x̂_0 is closer to its own x_0 than to others of its group: 1/2 if independent.

    The share of the other x_0 of the group that are less similar to x̂_0 than its own (equally
    similar: half), averaged over images that changed class, in groups of two or more. Similarity is
    the cosine of the angle, after the mean of each position is removed and each channel divided by
    its standard deviation, both over all x_0.

    x_0 and x̂_0 are clones, exchangeable given x_t, if the denoiser is exact. Their parts agree
    against the whole as (AUC of blocks - 1/2) / (AUC - 1/2): for white Gaussian noise that agrees
    little, one over the square root of the number of blocks; more where each block tells what all
    do, or where few blocks are kept, but kept whole.

    Args:
        x0: (n, channels, ...) images or activations of them.
        sampled: (n, channels, ...) of x̂_0.
        old: (n,) class of x_0.
        new: (n,) class of x̂_0.
        block: pixels a side of the blocks that are compared; None for the whole.

    Returns:
        Contributions (n_groups, 2).

    Raises:
        ValueError: images of other shapes, NaN or infinity.
    """
    groups, mean, moments = _groups(x0, sampled, old, new, False, 2), x0.mean(dim=0), Moments()
    moments.update(x0 - mean)
    scale, found = moments.standardiser(), []
    for rows in groups:
        parts = (scale(x[rows] - mean).view(x[rows].shape) for x in (sampled, x0))
        a, b = (functional.normalize(_blocks(part, block), dim=2) for part in parts)
        cosine = a @ b.mT
        lead = (cosine.diagonal(dim1=1, dim2=2)[:, :, None] - cosine).sign().sum(dim=(1, 2)).mean()
        found.append(((len(rows) + lead.item() / (len(rows) - 1)) / 2, len(rows)))
    return np.array(found)


def couplings(x0, sampled, old, new, kept: bool = False, block: int = 4) -> np.ndarray:
    r"""How much blocks change together, beyond what one Gaussian for each group would do.

    Of D = x̂_0 - x_0, let S be the covariance within a group, and e_p the squared length in block p
    of D minus its mean. The coupling is

    .. math:: R = \frac{\sum_g n_g \kappa_{pq}}{\sum_g n_g \,\mathrm{tr} S_p \,\mathrm{tr} S_q},
        \qquad \kappa_{pq} = \mathrm{Cov}(e_p, e_q) - 2 |S_{pq}|^2

    summed over pairs of blocks that share an edge (near), or that are half the image or more
    apart in rows or in columns and share none (far). kappa is the sum over the pixels a of p and b
    of q of the fourth cumulants (a, a, b, b), hence 0 if D is Gaussian, whatever its covariance.
    Both sums are estimated without bias, whatever the law, by Fisher's k-statistics: with Gram
    matrices G of the centred blocks,

    .. math:: \kappa_{pq} = \frac{n (n+1) \sum_i G^p_{ii} G^q_{ii} - (n-1) (\mathrm{tr} G^p
        \,\mathrm{tr} G^q + 2 \sum_{ij} G^p_{ij} G^q_{ij})}{(n-1)(n-2)(n-3)}.

    The energy is the variance of D within groups: the sum of squared lengths over n - 1.

    Args:
        x0: (n, channels, height, width).
        sampled, old, new: as of :func:`similarity_auc`.
        kept: read the images that kept their class, not those that changed it.
        block: pixels a side of a block; it divides height and width, of two blocks or more.

    Returns:
        Contributions (n_groups, 4, 2) of groups of six or more: near, far, energy, and the coupling
        of blocks with themselves.

    Raises:
        ValueError: as :func:`similarity_auc`.
    """
    groups, sides = _groups(x0, sampled, old, new, kept, 6), torch.tensor(x0.shape[2:])
    sides = sides // block
    place = torch.cartesian_prod(*map(torch.arange, sides.tolist()))
    apart, found = (place[:, None] - place).abs(), []
    same, near = (apart.sum(dim=2) == distance for distance in (0, 1))
    far = (2 * apart >= sides).any(dim=2) & ~near
    for rows in groups:
        n, change = len(rows), (sampled[rows] - x0[rows]).double()
        parts = _blocks(change - change.mean(dim=0), block)
        gram = parts @ parts.mT
        own, flat = gram.diagonal(dim1=1, dim2=2), gram.flatten(1)
        traces, squares = own.sum(dim=1).outer(own.sum(dim=1)), flat @ flat.T
        kappa = n * (n + 1) * own @ own.T - (n - 1) * (traces + 2 * squares)
        kappa /= (n - 1) * (n - 2) * (n - 3)
        # the means of traces and squares are linear in tr S_p tr S_q, |S_pq|^2 and kappa
        scale = (n * traces - 2 * squares) / (n - 1) - (n - 1) * (n - 2) / n * kappa
        scale /= (n - 2) * (n + 1)
        pairs = [[n * part[at].sum() for part in (kappa, scale)] for at in (near, far, same)]
        found.append([*pairs[:2], [own.sum(), n - 1], pairs[2]])
    return np.array(found, dtype=float)


def coupling_ladder(x0, sampled, old, new, block: int, confidence=0.95) -> bootstrap.Estimate:
    """How much more near blocks change together than far ones, in units of a block itself.

    (R near - R far) / R of a block with itself, one rung; larger and larger blocks make a ladder.
    Images of a tree have one rung for each level between leaves and class, whatever texture and
    contrast: about .35, .14, 0 for three levels, from the leaves on, and .3, 0 for two. What
    changes as a whole, as clusters do, couples far blocks as much as near ones; a chain has one low
    rung. Where nothing couples it is a ratio of noises: read it beside R.

    Args:
        x0, sampled, old, new, block: as of :func:`couplings`.
        confidence: of the interval, by resampling groups.
    """

    def excess(mean):
        near, far, _, own = np.moveaxis(_quotient(mean), -1, 0)
        return (near - far) / own

    groups = couplings(x0, sampled, old, new, block=block)
    return bootstrap.function_of_mean(excess, groups, confidence)


def checkerboards(height: int, width: int, rows: int, columns: int) -> Tensor:
    """Both colours of a checkerboard, for :func:`spliced`: (2, height, width).

    All in pixels; a square is (rows, columns), and with (height, width // 2) a half, left or right.
    """
    black = torch.arange(height)[:, None] // rows + torch.arange(width) // columns
    return torch.stack([black % 2 == 0, black % 2 == 1])


def spliced(x0: Tensor, labels: Tensor, masks: Tensor, generator) -> Tensor:
    """Each x_0 with a part replaced by the same part of another x_0 of its class.

    Args:
        x0: (n, channels, height, width).
        labels: (n,) classes, as the judge names them, two images or more of each.
        masks: (k, height, width) what is replaced, see :func:`checkerboards`.
        generator: says who gives to whom; in each class one circle, so that each gives once.

    Returns:
        (k, n, channels, height, width).
    """
    giver = torch.empty(len(x0), dtype=torch.long)
    for c in labels.unique():
        circle = torch.nonzero(labels == c)[:, 0]
        check_shape(f"others of class {c}", circle[1:], "n")
        circle = circle[torch.randperm(len(circle), generator=generator)]
        giver[circle] = circle.roll(1)
    return torch.where(masks[:, None, None], x0[giver], x0)


def splice_loss(posterior: Tensor, labels: Tensor, confidence=0.95) -> bootstrap.Estimate:
    """Share of spliced images that lose the class, with its interval by resampling x_0.

    Args:
        posterior: (k, n, C) probability of each class of :func:`spliced` images, or one-hot
            verdicts.
        labels: (n,) class of x_0.
        confidence: of the interval.
    """
    lost = 1 - posterior[:, torch.arange(len(labels)), labels].double().mean(dim=0)
    return bootstrap.function_of_mean(lambda mean: mean, lost.numpy(), confidence)


def _quotient(parts):
    return parts[..., 0] / parts[..., 1]


def _blocks(images, block) -> Tensor:
    """Numbers of each square block, (n_blocks, n, numbers); of the whole for None."""
    if block is None:
        return images.flatten(1)[None]
    return functional.unfold(images, block, stride=block).permute(2, 0, 1)


def _groups(x0, sampled, old, new, kept, least) -> list[Tensor]:
    """Rows of the images of each (old, new) that has ``least`` or more."""
    check_finite("x0", x0, "n channels ...")
    check_finite("sampled", sampled, *x0.shape)
    (rows,) = torch.nonzero((old == new) == kept, as_tuple=True)
    pairs = torch.stack([old, new], dim=1)[rows]
    _, group, sizes = pairs.unique(dim=0, return_inverse=True, return_counts=True)
    groups = rows[group.argsort(stable=True)].split(sizes.tolist())
    return [rows for rows in groups if len(rows) >= least]
