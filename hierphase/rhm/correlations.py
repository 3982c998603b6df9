"""How far changes are correlated: C(r), the susceptibility and the correlation length.

A datum x_0 is noised and denoised many times. Where it changed is a field over its leaves, one
field a trajectory; C_ij is the covariance of two places over the trajectories of one x_0, averaged
over x_0. (Sclocchi et al., arXiv 2410.13770; of images: `hierphase.analysis.patch_correlations`.)
"""

import math

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from hierphase.checks import check_shape, tree_depth
from hierphase.rhm.belief_propagation import BeliefPropagation, Posterior
from hierphase.rhm.belief_propagation_torch import PROBABILITY, child_messages
from hierphase.rhm.model import RandomHierarchyModel, check_symbols


def block_moments(posterior: Posterior, values: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    r"""Mean and variance of the sum of ``values`` over the leaves below each node, exactly.

    Given the observation the tree is a Markov chain from the top down, in which rule r of symbol y
    has a weight :math:`w_r \propto \prod_i \nu_\uparrow(x_i)`, a product of upward messages. So the
    sum S of a node's leaves has, given its symbol, the mean and the variance

    .. math::
        M(y) = \sum_r w_r \sum_i M(x_i), \qquad
        V(y) = \sum_r w_r \Big[\sum_i V(x_i) + \Big(\sum_i M(x_i) - M(y)\Big)^2\Big]

    and the marginal of y gives the moments of S.

    Args:
        posterior: of n observations.
        values: (n, s**L, v), a number for each symbol a leaf may have.

    Returns:
        Means and variances, L+1 float64 tensors each; ``[l]``: (n, s**(L-l)).
    """
    rhm, up = posterior.rhm, posterior.messages
    mean, variance = values.double(), torch.zeros_like(up[0])
    means, variances = [], []
    for level in range(rhm.L + 1):
        marginal = posterior.marginals[level].double()
        overall = (marginal * mean).sum(-1)
        means.append(overall)
        variances.append((marginal * (variance + (mean - overall[..., None]).square())).sum(-1))
        if level == rhm.L:
            return means, variances
        children = [x.unflatten(1, (-1, rhm.s)) for x in (up[level], mean, variance)]
        rules, weights = PROBABILITY.table(rhm.rules[level], rhm.rule_weights(level + 1), mean)
        messages, *parts = (child_messages(x, rules) for x in children)
        # (n, nodes, symbols, rules)
        weight = PROBABILITY.normalise(math.prod(messages, start=weights))
        below, spread = map(sum, parts)
        mean = (weight * below).sum(-1)
        variance = (weight * (spread + (below - mean[..., None]).square())).sum(-1)


def posterior_covariance(posterior: Posterior, leaves: Tensor) -> np.ndarray:
    r"""Covariances of the changes of leaves over posterior samples, exactly.

    :math:`\sigma = +1` if a leaf differs from x_0, -1 if not. The variance of its sum over blocks
    of :math:`s^l` leaves, summed over the blocks, grows from l-1 to l by the covariances of the
    pairs whose common ancestor is l levels up.

    Args:
        posterior: of n observations x_t.
        leaves: (n, s**L) integer symbols, the x_0 of each.

    Returns:
        (n, L+1), the sum of :math:`C_{ij}` over all ordered pairs at tree distance 0 (the
        variances) to L, as many as :func:`tree_pairs` says.

    Raises:
        ValueError: leaves of wrong shape, type or range.
    """
    rhm = posterior.rhm
    check_symbols("leaves", leaves, rhm.v, "n", rhm.d)
    sigma = torch.ones_like(posterior.messages[0]).scatter_(2, leaves.long()[..., None], -1)
    _, variances = block_moments(posterior, sigma)
    return np.diff([variance.sum(1).cpu().numpy() for variance in variances], axis=0, prepend=0).T


def tree_covariance(fields: np.ndarray, s: int) -> np.ndarray:
    """The same from samples: covariances of a field over the leaves of a tree.

    Args:
        fields: (K, n, s**L), K >= 2 trajectories of each of n data.
        s: branching of the tree.

    Returns:
        (n, L+1) as :func:`posterior_covariance`, with the unbiased covariance over trajectories.
    """
    fields = np.asarray(fields, dtype=np.float64)
    depth = round(np.log(fields.shape[-1]) / np.log(s))
    blocks = [fields.reshape(*fields.shape[:2], -1, s**level).sum(3) for level in range(depth + 1)]
    return np.diff([b.var(axis=0, ddof=1).sum(axis=1) for b in blocks], axis=0, prepend=0).T


def leaf_covariance(rhm: RandomHierarchyModel) -> np.ndarray:
    """Covariance of the one-hot code of the leaves over data of the model, exactly.

    Args:
        rhm: the model.

    Returns:
        (s**L * v, s**L * v), leaf by leaf, the symbols of a leaf in a row.
    """
    bp, like = BeliefPropagation(rhm), {"dtype": torch.float64}
    prior = bp(torch.ones(1, rhm.d, rhm.v, **like)).marginals[0].flatten(1)
    # one symbol of a leaf twice as likely: P(b | 1 + a) - P(b) = Cov(a, b) / (1 + P(a))
    twice = 1 + torch.eye(rhm.d * rhm.v, **like).view(-1, rhm.d, rhm.v)
    return ((1 + prior.mT) * (bp(twice).marginals[0].flatten(1) - prior)).numpy()


def mixture_covariance(likelihood: np.ndarray, epsilon: float, v: int) -> np.ndarray:
    """The same for a flat mixture: leaves that are independent given the class.

    The posterior of the epsilon-process is such a mixture too. So given the class the leaves do
    not covary, and all covariance of two leaves is that of their means over the classes.

    Args:
        likelihood: (n, classes, d) P(symbol of x_0 at leaf i | class), the classes equally likely.
        epsilon: noise in (0, 1].
        v: number of symbols.

    Returns:
        (n, 2), the sum of C_ij over i = j and over i != j.

    Raises:
        ValueError: likelihoods of another shape, or epsilon not in (0, 1].
    """
    check_shape("likelihood", likelihood, "n classes d")
    if not 0 < epsilon <= 1:
        raise ValueError(f"epsilon must be in (0, 1], got {epsilon}")
    evidence = epsilon / v + (1 - epsilon) * likelihood
    sigma = 1 - 2 * likelihood * (1 - epsilon + epsilon / v) / evidence
    weight = softmax(np.log(evidence).sum(axis=2), axis=1)[..., None]
    mean = (weight * sigma).sum(axis=1, keepdims=True)
    shift = sigma - mean
    pairs = weight[..., 0] * (shift.sum(axis=2) ** 2 - (shift**2).sum(axis=2))
    return np.stack([(1 - mean**2).sum(axis=(1, 2)), pairs.sum(axis=1)], axis=1)


def moments(covariance: np.ndarray, distances: np.ndarray) -> np.ndarray:
    r"""Moments of the correlations over the distance, for j = 0, 1, 2.

    .. math:: M_j = \frac{\sum_{ik} r_{ik}^j C_{ik}}{\sum_i C_{ii}}

    :math:`M_0` is the susceptibility :math:`\chi`.

    Args:
        covariance: (..., n_distances) sums of C_ij over the pairs at each distance, 0 first, from
            any of the functions here, averaged over data before; NaN counts as no pair.
        distances: (n_distances,) r, 0 first.

    Returns:
        (3, ...).
    """
    covariance = np.asarray(covariance, dtype=np.float64)
    sums = [np.nansum(covariance * np.asarray(distances) ** j, axis=-1) for j in range(3)]
    return np.stack(sums) / covariance[..., 0]


def correlation_length(covariance: np.ndarray, distances: np.ndarray) -> np.ndarray:
    r"""Correlation length :math:`\xi = M_2 / M_1`, the mean distance weighted by r C(r).

    The :func:`moments` have weights that grow with r, with which
    :math:`\xi \sim \lvert\epsilon - \epsilon^*\rvert^{-\nu}` holds early. In the more usual
    :math:`\sqrt{M_2 / M_0}`, the sum :math:`M_0` grows like a logarithm for long where
    :math:`C(r) \sim r^{-a}` with a near 1.
    """
    _, first, second = moments(covariance, distances)
    return second / first


def tree_distances(s: int, L: int) -> np.ndarray:
    r"""(L+1,) real distances r of leaves at tree distance 0..L, :math:`0, s, s^2, \dots, s^L`."""
    return np.array([0, *(float(s) ** k for k in range(1, tree_depth(L, s) + 1))])


def tree_pairs(s: int, L: int) -> np.ndarray:
    r"""(L+1,) ordered pairs at tree distance 0..L.

    :math:`s^L` times :math:`1, s - 1, (s - 1) s, \dots`
    """
    L = tree_depth(L, s)
    return s**L * np.array([1, *((s - 1) * s**k for k in range(L))], dtype=np.float64)
