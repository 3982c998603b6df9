"""The mixture against Bayes' rule on a grid, and against the laws of one Gaussian."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

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
    turned = GaussianMixture(MEANS, (mixture.variances, -mixture.axes, mixture.rest))
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


def blobs(n, seed=0):
    """(n, 1, 2, 3) images of two classes of two unequal clusters each, far apart, and labels."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, 6, 6)) * np.array([1, 0.8, 0.5, 0.2, 0.1, 0.05])
    which = np.arange(n) % 10
    which = np.select([which < 1, which < 5, which < 8], [0, 1, 2], 3)
    rows = 8 * np.eye(6)[which] + np.einsum("nij,nj->ni", root[which], rng.normal(size=(n, 6)))
    return torch.from_numpy(rows).float().view(n, 1, 2, 3), torch.from_numpy(which // 2)


FITS = [
    {"clusters": 2, "rank": 2},
    {"clusters": 2, "rank": 3, "shared": True},
    {"clusters": 2},
    {"shared": True},
    {"rank": 5},
]


@pytest.fixture(scope="module", params=FITS, ids=str)
def fit(request):
    """A fit, and the same as dense Gaussians: weights, means, covariances, owners."""
    mixture, options = GaussianMixture.fitted(*blobs(600), **request.param), request.param
    K = 2 * options.get("clusters", 1)
    assert mixture.axes.shape == (1 if options.get("shared") else K, 6, options.get("rank", 6))
    axes, variances = mixture.axes.expand(K, -1, -1), mixture.variances[:, None]
    outside = torch.eye(6) - axes @ axes.mT
    dense = axes * variances @ axes.mT + mixture.rest[:, None, None] * outside
    weights = [0.2, 0.8, 0.6, 0.4] if K == 4 else [1.0, 1.0]
    ours = mixture.log_weights.exp().view(2, -1).sort().values
    np.testing.assert_allclose(ours, np.sort(np.reshape(weights, (2, -1))), rtol=1e-12)
    return mixture, mixture.log_weights.exp().numpy() / 2, mixture.means.flatten(1), dense


def of_dense(fit, rows, alpha_bar):
    """log p(x_t, component), (n, K), by scipy."""
    _, shares, means, dense = fit
    white, logs = (1 - alpha_bar) * np.eye(6), []
    for share, mean, covariance in zip(shares, means.numpy(), dense.numpy(), strict=True):
        noisy = multivariate_normal(alpha_bar**0.5 * mean, alpha_bar * covariance + white)
        logs.append(np.log(share) + np.atleast_1d(noisy.logpdf(rows)))
    return np.stack(logs, 1)


@pytest.mark.parametrize("alpha_bar", [0.02, 0.5, 1.0])
def test_clusters_shared_and_low_rank_covariances_against_dense_gaussians(fit, alpha_bar):
    mixture, *_ = fit
    images, _ = blobs(40, seed=1)
    noise = torch.randn(images.shape, generator=derived_generator(1))
    x_t = alpha_bar**0.5 * images.double() + (1 - alpha_bar) ** 0.5 * noise
    joint = of_dense(fit, x_t.flatten(1), alpha_bar)
    evidence = logsumexp(joint, axis=1)
    np.testing.assert_allclose(mixture.log_evidence(x_t, alpha_bar), evidence, rtol=1e-9)
    expected = np.exp(joint - evidence[:, None]) @ np.eye(2)[mixture.owners]
    levels = torch.full((40,), alpha_bar, dtype=torch.float64)
    np.testing.assert_allclose(mixture.class_posterior(x_t, levels), expected, atol=1e-9)


def test_draws_from_the_posterior_against_dense_conditioning(fit):
    mixture, _, means, dense = fit
    n, alpha_bar = 40_000, 0.05
    x_t = torch.linspace(-1, 2, 6).double()
    joint = of_dense(fit, x_t[None].numpy(), alpha_bar)[0]
    weight = np.exp(joint - logsumexp(joint))
    first, second = np.zeros(6), np.zeros((6, 6))
    for w, mean, covariance in zip(weight, means.numpy(), dense.numpy(), strict=True):
        noisy = alpha_bar * covariance + (1 - alpha_bar) * np.eye(6)
        gain = alpha_bar**0.5 * covariance @ np.linalg.inv(noisy)
        centre = mean + gain @ (x_t.numpy() - alpha_bar**0.5 * mean)
        first += w * centre
        second += w * (np.outer(centre, centre) + covariance - alpha_bar**0.5 * gain @ covariance)
    draws, classes = mixture.denoised(
        x_t.view(1, 1, 2, 3).expand(n, -1, -1, -1), alpha_bar, derived_generator(2)
    )
    rows, spread = draws.flatten(1).numpy(), np.sqrt(second.max() / n)
    np.testing.assert_allclose(rows.mean(0), first, atol=5 * spread)
    np.testing.assert_allclose(rows.T @ rows / n, second, atol=10 * second.max() / n**0.5)
    share = weight @ np.eye(2)[mixture.owners]
    np.testing.assert_allclose(np.bincount(classes) / n, share, atol=5 * 0.5 / n**0.5)


def test_draws_of_a_class_have_its_clusters(fit):
    mixture, shares, means, dense = fit
    n = 20_000
    labels = torch.arange(n) % 2
    rows = mixture.draw(labels, derived_generator(3)).flatten(1).double().numpy()
    for c in range(2):
        own = mixture.owners.numpy() == c
        centres, w = means[own].numpy(), 2 * shares[own]
        second = np.einsum("k,ki,kj->ij", w, centres, centres)
        second += np.einsum("k,kij->ij", w, dense[own])
        ours = rows[labels == c]
        np.testing.assert_allclose(ours.mean(0), w @ centres, atol=5 * (2 * 60 / n) ** 0.5)
        np.testing.assert_allclose(ours.T @ ours / len(ours), second, atol=10 * 90 / n**0.5)
    each = [derived_generator(4, i) for i in range(6)]
    part = mixture.draw(labels[3:6], each[3:])
    assert torch.equal(
        mixture.draw(labels[:6], [derived_generator(4, i) for i in range(6)])[3:], part
    )


@pytest.mark.parametrize(("n", "rank"), [(50, 3), (8, 3), (5, 5)])
def test_low_rank_is_that_of_probabilistic_principal_components(n, rank):
    """By scikit-learn, of more and of fewer images than numbers; few images get the floor."""
    images = torch.randn(n, 1, 4, 5, generator=derived_generator(5)) * torch.linspace(0.2, 2, 5)
    fit = GaussianMixture.fitted(images, torch.zeros(n).long(), rank=rank)
    rows = images.flatten(1).double().numpy()
    pca = PCA(min(rank, n - 1)).fit(rows)
    unbiased = (n - 1) / n
    theirs = pca.explained_variance_ * unbiased
    np.testing.assert_allclose(fit.variances[0, : len(theirs)], theirs, rtol=1e-6)
    span = pca.components_ @ fit.axes[0].numpy()
    np.testing.assert_allclose(np.abs(span[:, : len(theirs)]), np.eye(len(theirs)), atol=1e-6)
    floor = 0.01 * rows.var(0).mean()
    remaining = (rows.var(0).sum() - theirs.sum()) / (20 - rank)
    np.testing.assert_allclose(fit.rest, max(remaining, floor), rtol=1e-5)
    assert (remaining < floor) == (n == 5)
    if n == 5:  # no direction is left for the fifth axis
        np.testing.assert_allclose(fit.variances[0, 4], floor)
        assert fit.log_evidence(images, 1.0).isfinite().all()


def test_clusters_of_single_images_and_of_equal_ones():
    images, labels = blobs(12)
    single = GaussianMixture.fitted(images, labels, clusters=3, rank=2)
    assert (single.variances > 0).all() and (single.rest > 0).all()
    with pytest.warns(Warning, match="distinct clusters"):
        equal = GaussianMixture.fitted(torch.cat([images[:1]] * 4), torch.zeros(4).long(), 2)
    assert len(equal.means) == 1


def test_equidistant_classes_have_the_universal_width():
    """C = 10: ln SNR(K = .9) - ln SNR(K = .1) is 2.57 (science.md, section 8), whatever d2."""
    n, C = 20_000, 10
    mixture = GaussianMixture(3 * np.eye(C), np.zeros((1, C, C)))
    labels, generator = torch.arange(n) % C, derived_generator(6)
    x_0, noise = mixture.draw(labels, generator), torch.randn(n, C, generator=generator)
    levels, kept = np.linspace(-5, 1.5, 27), []
    for level in torch.from_numpy(levels).sigmoid():
        x_t = level.sqrt() * x_0 + (1 - level).sqrt() * noise
        own = mixture.class_posterior(x_t, level)[torch.arange(n), labels].mean()
        kept.append((float(own) - 1 / C) / (1 - 1 / C))
    low, high = np.interp([0.1, 0.9], kept, levels)
    assert high - low == pytest.approx(2.57, abs=0.04)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: GaussianMixture(MEANS, COVARIANCES[:2]), r"\(3, 2, 2\), got \(2, 2, 2\)"),
        (lambda m: GaussianMixture([[0, 0]], [[[1, 2], [0, 1]]]), "symmetric.*up to 2"),
        (lambda m: m.class_posterior(torch.zeros(1, 2), 1.2), "alpha_bar.*1.2"),
        (lambda m: GaussianMixture(MEANS, COVARIANCES, [0, 2, 2]), r"in order, got \[0, 2, 2\]"),
        (lambda m: GaussianMixture(MEANS, COVARIANCES, [1, 0, 0]), r"in order, got \[1, 0, 0\]"),
        (lambda m: GaussianMixture(MEANS, COVARIANCES, None, [1, 0, 1]), "positive, got 0"),
        (lambda m: GaussianMixture.fitted(*points(6), clusters=3), "class 0 has 2 images"),
        (lambda m: GaussianMixture.fitted(*points(6), rank=2), "rank must be at most 1, got 2"),
        (lambda m: GaussianMixture.fitted(*points(6), clusters=0), "clusters.*least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(mixture, call, message):
    with pytest.raises(ValueError, match=message):
        call(mixture)
