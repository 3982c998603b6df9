import itertools

import numpy as np
import pytest
import torch
from enumeration import all_trees, enumerate_posterior

from hierphase.rhm import correlations, meanfield
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess, MaskingProcess
from hierphase.rhm.model import RandomHierarchyModel


def by_distance(covariance, s):
    """Sums of a covariance (d, d) over the leaf pairs at each tree distance, pair by pair."""
    d = len(covariance)
    sums = np.zeros(round(np.log(d) / np.log(s)) + 1)
    for i, j in itertools.product(range(d), repeat=2):
        k = 0
        while i // s**k != j // s**k:
            k += 1
        sums[k] += covariance[i, j]
    return sums


def covariance_of(sigma, weight):
    """(d, d) covariance of rows of sigma that have these weights."""
    mean = weight @ sigma
    return (sigma * weight[:, None]).T @ sigma - np.outer(mean, mean)


@pytest.mark.parametrize("sizes", [(4, 2, 2, 3), (3, 3, 3, 2), (5, 4, 2, 2)])
def test_exact_covariance_against_enumeration(sizes):
    rhm = RandomHierarchyModel(*sizes, seed=1)
    leaves = rhm.sample(3, seed=2)[0]
    beliefs = EpsilonProcess(rhm.v).beliefs(leaves, 0.6).double()
    beliefs *= torch.rand(beliefs.shape, generator=torch.Generator().manual_seed(0)) + 0.01
    beliefs[0, 0], beliefs[1, 1] = 1, 0  # an erased leaf, a leaf that is known
    beliefs[1, 1, leaves[1, 1]] = 1
    ours = correlations.posterior_covariance(BeliefPropagation(rhm)(beliefs), leaves)
    trees, weights, _, _ = enumerate_posterior(rhm, beliefs)
    for x_0, weight, row in zip(leaves, weights, ours, strict=True):
        sigma = (2.0 * (trees[0] != x_0) - 1).numpy()
        np.testing.assert_allclose(
            row, by_distance(covariance_of(sigma, weight.numpy()), rhm.s), atol=1e-12
        )


def test_exact_covariance_where_messages_underflow():
    rhm = RandomHierarchyModel(4, 2, 2, 3, seed=1)
    leaves = rhm.sample(2, seed=2)[0]
    beliefs = 250 * torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(1))
    beliefs[1] /= 250
    ours = correlations.posterior_covariance(BeliefPropagation(rhm)(beliefs.double(), True), leaves)
    trees = all_trees(rhm)[0][0]
    logs = beliefs[:, torch.arange(8), trees].double().sum(-1)
    for x_0, weight, row in zip(leaves, logs.softmax(1).numpy(), ours, strict=True):
        sigma = (2.0 * (trees != x_0) - 1).numpy()
        np.testing.assert_allclose(row, by_distance(covariance_of(sigma, weight), 2), atol=1e-10)


@pytest.mark.parametrize("zipf", [0.0, 1.0])
def test_block_moments_of_any_function_of_the_leaves(zipf):
    rhm = RandomHierarchyModel(3, 2, 3, 2, seed=3, zipf=zipf)
    random = torch.Generator().manual_seed(0)
    beliefs = torch.rand(2, 9, 3, generator=random, dtype=torch.float64)
    values = torch.randn(2, 9, 3, generator=random, dtype=torch.float64)
    means, variances = correlations.block_moments(BeliefPropagation(rhm)(beliefs), values)
    trees, weights, _, _ = enumerate_posterior(rhm, beliefs)
    for n in range(2):
        of_leaf = values[n, torch.arange(9), trees[0]]
        for level in range(3):
            sums = of_leaf.unflatten(1, (-1, 3**level)).sum(-1)
            mean = weights[n] @ sums
            torch.testing.assert_close(means[level][n], mean)
            torch.testing.assert_close(variances[level][n], weights[n] @ (sums - mean).square())


def test_susceptibility_is_the_slope_of_the_leaves():
    """The epsilon-process draws each leaf to its symbol in x_0 by h: chi = d_h P / <P (1 - P)>."""
    rhm = RandomHierarchyModel(8, 3, 2, 5, seed=0)
    leaves = rhm.sample(4, seed=0)[0]

    def kept(epsilon):
        beliefs = torch.full((4, 32, 8), epsilon / 8, dtype=torch.float64)
        beliefs.scatter_(2, leaves[..., None], 1 - epsilon + epsilon / 8)
        posterior = BeliefPropagation(rhm)(beliefs)
        return posterior, posterior.marginals[0].gather(-1, leaves[..., None]).numpy()

    posterior, p = kept(0.6)
    ends = np.array([0.6 - 1e-5, 0.6 + 1e-5])
    h = np.log((1 - ends + ends / 8) / (ends / 8))
    slope = (kept(float(ends[1]))[1] - kept(float(ends[0]))[1]).sum() / (h[1] - h[0])
    exact = correlations.posterior_covariance(posterior, leaves).sum(0)
    assert slope / (p * (1 - p)).sum() == pytest.approx(exact.sum() / exact[0], rel=1e-6)


def test_covariance_of_a_flat_mixture_against_enumeration():
    v, d, epsilon, random = 3, 4, 0.7, np.random.default_rng(0)
    given = random.dirichlet(np.ones(v), size=(2, d))  # (class, leaf, symbol)
    x_0 = random.integers(v, size=(5, d))
    ours = correlations.mixture_covariance(given[:, np.arange(d), x_0].swapaxes(0, 1), epsilon, v)
    data = np.array(list(itertools.product(range(v), repeat=d)))
    prior = given[:, np.arange(d), data].prod(2).mean(0)
    for start, row in zip(x_0, ours, strict=True):
        changed = data != start
        weight = prior * np.where(changed, epsilon / v, 1 - epsilon + epsilon / v).prod(1)
        covariance = covariance_of(2.0 * changed - 1, weight / weight.sum())
        np.testing.assert_allclose(
            row, [np.trace(covariance), covariance.sum() - np.trace(covariance)]
        )


@pytest.mark.parametrize(("d", "largest"), [(16, 3.6), (64, 10.8), (256, 38), (1024, 146)])
def test_susceptibility_of_a_flat_mixture_grows_with_its_size(d, largest):
    """Values of ../shared/science.md: 32 symbols and classes, half of the leaves prototypes."""
    random, v, n = np.random.default_rng(0), 32, max(16, 4096 // d)
    prototypes = random.integers(v, size=(n, v, d))
    copied = random.random((n, d)) < 0.5
    x_0 = np.where(copied, prototypes[:, 0], random.integers(v, size=(n, d)))
    likelihood = 0.5 * (prototypes == x_0[:, None]) + 0.5 / v
    chi = [
        correlations.moments(
            correlations.mixture_covariance(likelihood, 1 - known / d, v).mean(0), [0, 1]
        )[0]
        for known in np.geomspace(0.1, 1, 19)
    ]
    assert max(chi) == pytest.approx(largest, rel=0.07)
    assert 0 < np.argmax(chi) < 18


def test_sampled_covariance_is_that_of_numpy():
    fields = np.random.default_rng(0).normal(size=(5, 2, 9)).cumsum(axis=2)
    ours = correlations.tree_covariance(fields, 3)
    for n in range(2):
        np.testing.assert_allclose(ours[n], by_distance(np.cov(fields[:, n].T), 3))


def test_sampled_covariance_approaches_the_exact_one():
    rhm = RandomHierarchyModel(8, 3, 2, 5, seed=0)
    leaves = rhm.sample(4, seed=0)[0]
    posterior = BeliefPropagation(rhm)(EpsilonProcess(8).beliefs(leaves, 0.6).double())
    drawn = posterior.sample(20_000, torch.Generator().manual_seed(0))[0]
    sampled = correlations.tree_covariance((2.0 * (drawn != leaves) - 1).numpy(), 2)
    exact = correlations.posterior_covariance(posterior, leaves)
    np.testing.assert_allclose(sampled.sum(1), exact.sum(1), rtol=0.05)
    np.testing.assert_allclose(sampled[:, 0], exact[:, 0], rtol=0.02)


def test_two_parts_add_up_to_the_covariance_over_fresh_noise():
    """Against all 16 masks of 4 leaves: unbiased, with two noise draws already."""
    rhm = RandomHierarchyModel(4, 2, 2, 2, seed=0)
    x_0, erased = rhm.sample(1, seed=1)[0], 0.4
    masks = torch.tensor(list(itertools.product([False, True], repeat=4)))
    seen = MaskingProcess(4, T=1).beliefs(torch.where(masks, 4, x_0)).double()
    trees, weights, _, _ = enumerate_posterior(rhm, seen)
    probability = torch.where(masks, erased, 1 - erased).prod(1).double()
    sigma = (2.0 * (trees[0] != x_0) - 1).numpy()
    exact = by_distance(covariance_of(sigma, (probability @ weights).numpy()), 2)

    drawn = torch.multinomial(
        probability, 2 * 20_000, True, generator=torch.Generator().manual_seed(0)
    )
    posterior = BeliefPropagation(rhm)(seen)
    within = correlations.posterior_covariance(posterior, x_0.repeat(16, 1))
    means = 1 - 2 * posterior.marginals[0].gather(-1, x_0.repeat(16, 1)[..., None])[..., 0].numpy()
    estimates = within[drawn].reshape(2, -1, 3).mean(0)
    estimates = estimates + correlations.tree_covariance(means[drawn].reshape(2, -1, 4), 2)
    error = estimates.std(0) / np.sqrt(len(estimates))
    assert (error < 0.05).all()
    assert (abs(estimates.mean(0) - exact) < 4 * error).all()


def test_reference_values_and_mean_field():
    """chi at L = 8, of ../shared/science.md: BP 2.13 / 4.43 / 7.00 / 4.30 over other rules."""
    for epsilon, reference in ((0.60, 2.13), (0.70, 4.43), (0.73, 7.00), (0.76, 4.30)):
        total = 0
        for seed in range(8):
            rhm = RandomHierarchyModel(32, 8, 2, 8, seed=seed)
            leaves = rhm.sample(16, seed=seed)[0]
            beliefs = EpsilonProcess(32).beliefs(leaves, epsilon).double()
            posterior = BeliefPropagation(rhm)(beliefs)
            total = total + correlations.posterior_covariance(posterior, leaves).sum(0)
        r = correlations.tree_distances(2, 8)
        chi = correlations.moments(total, r)[0]
        assert chi == pytest.approx(reference, rel=0.04)
        assert chi == pytest.approx(meanfield.susceptibility(epsilon, 32, 8, 2, 8), rel=0.05)
        pairs = correlations.tree_pairs(2, 8)
        theory = meanfield.correlation(epsilon, 32, 8, 2, 8)
        np.testing.assert_allclose((total / pairs / 128)[:4], theory[:4], rtol=0.12)


def test_pairs_and_distances_of_trees():
    assert correlations.tree_pairs(3, 2).tolist() == [9, 18, 54]
    assert correlations.tree_distances(3, 2).tolist() == [0, 3, 9]
    assert correlations.tree_pairs(2, 7).sum() == 4**7


def test_moments_and_length():
    r = np.array([0.0, 2.0, 4.0])
    chi, first, second = correlations.moments([[4, 2, 1], [4, 0, np.nan]], r)
    np.testing.assert_allclose(chi, [7 / 4, 1])
    np.testing.assert_allclose(first, [2, 0])
    np.testing.assert_allclose(second, [6, 0])
    assert correlations.correlation_length([4, 2, 1], r) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.mixture_covariance(np.ones((2, 3)), 0.5, 4), r"d\), got \(2, 3\)"),
        (lambda c: c.mixture_covariance(np.ones((1, 2, 3)), 0, 4), "epsilon must be .* got 0"),
        (lambda c: c.tree_pairs(1, 3), "s must be at least 2, got 1"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(correlations)


def test_leaves_have_to_fit_the_posterior():
    rhm = RandomHierarchyModel(4, 2, 2, 2)
    posterior = BeliefPropagation(rhm)(torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match=r"leaves must be of shape .*got \(1, 3\)"):
        correlations.posterior_covariance(posterior, torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize("kind", [{}, {"zipf": 1.0}, {"s": 3, "L": 2, "n_classes": 2}])
def test_covariance_of_the_leaves_is_that_of_all_data(kind):
    rhm = RandomHierarchyModel(**{"v": 3, "m": 2, "s": 2, "L": 2} | kind, seed=5)
    codes, weights = [], []
    for root in range(rhm.n_classes):
        for r, top in enumerate(rhm.rules[1][root].tolist()):
            for choice in itertools.product(range(2), repeat=rhm.s):
                leaves = rhm.rules[0][top, choice].flatten()
                codes.append(np.eye(3)[leaves.numpy()].flatten())
                weights.append(np.prod([float(k + 1) ** -rhm.zipf for k in (r, *choice)]))
    expected = np.cov(np.transpose(codes), aweights=weights, ddof=0)
    np.testing.assert_allclose(correlations.leaf_covariance(rhm), expected, atol=1e-12)


def test_leading_eigenvalue_does_not_see_the_tree():
    """science.md, section 8: .057 to .073 for (32, 8, 2) up to L = 6."""
    found = []
    for L in (2, 4):
        covariance = correlations.leaf_covariance(RandomHierarchyModel(32, 8, 2, L))
        found.append(np.linalg.eigvalsh(covariance)[-1])
    assert 0.045 < min(found) and max(found) < 0.08
