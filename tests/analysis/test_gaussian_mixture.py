"""The mixture against Bayes' rule on a grid, and against the laws of one Gaussian."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.seeds import derived_generator

MEANS = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])
COVARIANCES = np.array(
    [[[0.5, 0.3], [0.3, 0.4]], [[0.2, 0.0], [0.0, 1.0]], [[0.3, -0.2], [-0.2, 0.3]]]
)


def points(n, seed=0):
    """(n, 2) points of the three classes, and their labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    rows = np.array([rng.multivariate_normal(MEANS[c], COVARIANCES[c]) for c in labels])
    return torch.from_numpy(rows).float(), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture(MEANS, COVARIANCES)


def test_fit_gives_means_and_covariances():
    rows, labels = points(300)
    fitted = GaussianMixture.fitted(rows.view(-1, 1, 2, 1), labels)
    assert fitted.means.shape == (3, 1, 2, 1)
    for c in range(3):
        of_class = rows[labels == c].double().numpy()
        covariance = fitted.axes[c] @ torch.diag(fitted.variances[c]) @ fitted.axes[c].T
        np.testing.assert_allclose(fitted.means[c].flatten(), of_class.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(covariance, np.cov(of_class.T, bias=True), atol=1e-6)


@pytest.mark.parametrize("alpha_bar", [0.0, 0.3, 0.9])
def test_posterior_and_draws_are_those_of_bayes_on_a_grid(mixture, alpha_bar):
    """p(x_0, class) p(x_t | x_0) on a grid of x_0, without any formula for Gaussians."""
    x_t = np.array([0.4, -0.3])
    axis = np.linspace(-6, 6, 601)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    noise = multivariate_normal(x_t, (1 - alpha_bar) * np.eye(2))
    likelihood = noise.pdf(alpha_bar**0.5 * grid)
    joint = [
        multivariate_normal(m, c).pdf(grid) * likelihood
        for m, c in zip(MEANS, COVARIANCES, strict=True)
    ]
    weights = np.array(joint) / np.sum(joint)
    mean = np.einsum("cij,ijk->k", weights, grid)
    second = np.einsum("cij,ijk,ijl->kl", weights, grid, grid)

    n = 40_000
    rows = torch.from_numpy(x_t).expand(n, 2)
    levels = torch.full((n,), alpha_bar, dtype=torch.float64)
    found = mixture.class_posterior(rows[:1], levels[:1])[0]
    np.testing.assert_allclose(found, weights.sum(axis=(1, 2)), atol=1e-6)
    draws, classes = mixture.denoised(rows, levels, torch.Generator().manual_seed(0))
    shares = np.bincount(classes, minlength=3) / n
    np.testing.assert_allclose(shares, found, atol=5 * 0.5 / n**0.5)
    np.testing.assert_allclose(draws.mean(dim=0), mean, atol=5 / n**0.5)
    np.testing.assert_allclose(draws.T @ draws / n, second, atol=5 * 2 / n**0.5)
    for c in range(3):  # the class that is named is the one that was drawn from
        conditional = np.einsum("ij,ijk->k", weights[c], grid) / weights[c].sum()
        own = draws[classes == c]
        np.testing.assert_allclose(own.mean(dim=0), conditional, atol=5 / len(own) ** 0.5)


def test_covariance_of_one_gaussian_after_a_round_trip():
    """Cov(x̂_0, x_0) = abar S (abar S + 1 - abar)^-1 S, and x̂_0 has the covariance S of x_0.

    For S = 1 that is abar. The third direction is constant, and comes back as it was.
    """
    variances = torch.tensor([[1.0, 0.25, 0.0]], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=derived_generator(1)).double())[0]
    mean = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64) @ turn.T
    mixture = GaussianMixture(mean, turn @ torch.diag(variances[0]) @ turn.T[None])
    n, levels = 5000, torch.tensor([1.0, 0.6, 0.2, 0.0])
    labels = torch.zeros(n, dtype=torch.long)
    x0 = mixture.draw(labels, [derived_generator(0, i, 0) for i in range(n)])
    generators = [derived_generator(0, i) for i in range(n)]
    back, classes = mixture.round_trips(x0, labels, levels, generators)
    assert torch.equal(back[0], x0) and not classes.any() and back.dtype == torch.float32
    S = variances[0]
    for level, rows in zip(levels.tolist(), back, strict=True):
        before, after = ((rows.double() - mean) @ turn for rows in (x0, rows))
        ratio = 1.0 if level == 1 else level * S / (level * S + 1 - level)
        expected = torch.diag(ratio * S)
        np.testing.assert_allclose(after.T @ before / n, expected, atol=5 / n**0.5)
        np.testing.assert_allclose(after.T @ after / n, torch.diag(S), atol=5 * 1.5 / n**0.5)
        np.testing.assert_allclose(after[:, 2], 0, atol=1e-6)


def test_signs_of_the_eigenvectors_do_not_matter(mixture):
    turned = GaussianMixture(MEANS, COVARIANCES)
    turned.axes = -turned.axes
    x0, labels = points(6)
    levels = torch.tensor([0.9, 0.5, 0.0])
    results = [
        world.round_trips(x0, labels, levels, [derived_generator(i) for i in range(6)])
        for world in (mixture, turned)
    ]
    torch.testing.assert_close(results[0], results[1])


def test_an_image_does_not_depend_on_the_others(mixture):
    x0, labels = points(5)
    levels = torch.tensor([1.0, 0.5, 0.1])
    whole = mixture.round_trips(x0, labels, levels, [derived_generator(i) for i in range(5)])
    part = mixture.round_trips(x0[3:], labels[3:], levels, [derived_generator(i) for i in (3, 4)])
    assert torch.equal(whole[0][:, 3:], part[0]) and torch.equal(whole[1][:, 3:], part[1])


def test_rows_may_share_a_level_and_shapes_are_kept(mixture):
    x_t = torch.randn(4, 1, 2, generator=derived_generator(0)).double()
    one = mixture.denoised(x_t, 0.4, derived_generator(1))
    each = mixture.denoised(x_t, torch.full((4,), 0.4, dtype=torch.float64), derived_generator(1))
    assert torch.equal(one[0], each[0]) and one[0].shape == x_t.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: GaussianMixture(MEANS, COVARIANCES[:2]), r"\(3, 2, 2\), got \(2, 2, 2\)"),
        (lambda m: GaussianMixture([[0, 0]], [[[1, 2], [0, 1]]]), "symmetric.*up to 2"),
        (lambda m: m.class_posterior(torch.zeros(1, 2), 1.2), "alpha_bar.*1.2"),
    ],
)
def test_bad_arguments_are_refused(mixture, call, message):
    with pytest.raises(ValueError, match=message):
        call(mixture)
