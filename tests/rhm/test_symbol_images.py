"""Images of symbols against sums over all symbols, and against the laws of exact posteriors."""

import itertools

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from torch.nn.functional import avg_pool2d

from hierphase.rhm.symbol_images import ChainSymbols, SymbolImages, TreeSymbols, tree_images
from hierphase.seeds import derived_generator


def tree(L):
    """A small tree, and for each class all its leaves (N, sites), equally likely."""
    rhm = TreeSymbols(v=2, m=3 if L == 1 else 2, s=4, L=L, n_classes=2, seed=3)

    def below(symbol, level):
        if level == 0:
            return [(symbol,)]
        whole = []
        for rule in rhm.rules[level - 1][symbol].tolist():
            children = itertools.product(*(below(child, level - 1) for child in rule))
            whole += [sum(leaves, ()) for leaves in children]
        return whole

    leaves = [np.array(below(c, L)) for c in range(2)]
    return rhm, [(own, np.full(len(own), 1 / len(own))) for own in leaves]


def chain():
    """A small chain, and for each class all sequences with their probability."""
    chances = torch.rand(2, 4, 3, 3, generator=derived_generator(1)).double() + 0.05
    chances /= chances.sum(-1, keepdim=True)
    sequences = np.array(list(itertools.product(range(3), repeat=4)))
    laws = []
    for own in chances.numpy():
        p = own[0, 0, sequences[:, 0]]
        for i in range(1, 4):
            p = p * own[i, sequences[:, i - 1], sequences[:, i]]
        laws.append((sequences, p))
    return ChainSymbols(chances), laws


def place(site, L):
    """Row and column of a leaf: each base-four digit, from the class down, chooses a quarter."""
    row = column = 0
    for level in range(L - 1, -1, -1):
        quarter = site // 4**level % 4
        row, column = 2 * row + quarter // 2, 2 * column + quarter % 2
    return row, column


WORLDS = {"tree-1": lambda: tree(1), "tree-2": lambda: tree(2), "chain": chain}


@pytest.fixture(scope="module", params=WORLDS)
def world(request):
    """A law with two kinds and three modes, all its mean images, their probability and class.

    Patches have two channels of one pixel.
    """
    symbols, laws = WORLDS[request.param]()
    sites = laws[0][0].shape[1]
    L = {4: 1, 16: 2}[sites]
    v = int(max(leaves.max() for leaves, _ in laws)) + 1
    means = torch.randn(2, 3, sites, v, 2, 1, 1, generator=derived_generator(2))
    images, probabilities, classes = [], [], []
    for kind, mode, c in itertools.product(range(2), range(3), range(2)):
        for leaves, p in zip(*laws[c], strict=True):
            image = np.empty((2, 2**L, 2**L))
            for site, symbol in enumerate(leaves):
                row, column = place(site, L)
                image[:, row, column] = means[kind, mode, site, symbol, :, 0, 0]
            images.append(image)
            probabilities.append(p / 12)
            classes.append(2 * kind + c)
    return SymbolImages(symbols, means, 0.4), np.array(images), np.array(probabilities), classes


@pytest.mark.parametrize("alpha_bar", [0.0, 0.3, 0.9])
def test_posterior_and_evidence_are_sums_over_all_symbols(world, alpha_bar):
    law, images, probabilities, classes = world
    x_t = torch.randn(3, *images.shape[1:], generator=derived_generator(4)).double()
    spread = np.sqrt(alpha_bar * 0.4**2 + 1 - alpha_bar)
    log = norm.logpdf(x_t[:, None].numpy(), alpha_bar**0.5 * images, spread).sum((2, 3, 4))
    joint = np.exp(log + np.log(probabilities))
    expected = np.stack([joint[:, np.equal(classes, c)].sum(1) for c in range(4)], 1)
    np.testing.assert_allclose(
        law.log_evidence(x_t, alpha_bar), logsumexp(log, axis=1, b=probabilities), rtol=1e-9
    )
    found = law.class_posterior(x_t, torch.full((3,), alpha_bar).double())
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-7)

    n = 20_000
    draws, of = law.denoised(x_t[:1].expand(n, -1, -1, -1), alpha_bar, derived_generator(5))
    shares = np.bincount(of, minlength=4) / n
    np.testing.assert_allclose(shares, found[0], atol=5 * 0.5 / n**0.5)
    weight = joint[0] / joint[0].sum()
    gain = alpha_bar**0.5 * 0.4**2 / spread**2
    means = images + gain * (x_t[0].numpy() - alpha_bar**0.5 * images)
    flat = means.reshape(len(means), -1)
    second = np.einsum("n,ni,nj->ij", weight, flat, flat)
    second += np.eye(len(second)) * 0.4**2 * (1 - alpha_bar) / spread**2
    ours = draws.flatten(1).numpy()
    np.testing.assert_allclose(ours.mean(0), weight @ flat, atol=5 * 1.5 / n**0.5)
    np.testing.assert_allclose(ours.T @ ours / n, second, atol=5 * 3 / n**0.5)
    for c in range(4):  # the class that is named is the one that was drawn
        own = weight * np.equal(classes, c)
        if own.sum() > 0.02:
            atol = 5 * 1.5 / (n * own.sum()) ** 0.5
            mean = own @ flat / own.sum()
            np.testing.assert_allclose(ours[of.numpy() == c].mean(0), mean, atol=atol)


def test_draws_are_those_of_the_law(world):
    """All noise leaves the prior, by other code; and the means of each class are known."""
    law, images, probabilities, classes = world
    n = 20_000
    labels = torch.arange(n) % 4
    x_0 = law.draw(labels, derived_generator(6))
    assert x_0.dtype == torch.float32 and x_0.shape == (n, *law.shape)
    flat = images.reshape(len(images), -1)
    for c in range(4):
        own = probabilities * np.equal(classes, c) * 4
        ours = x_0[labels == c].flatten(1).numpy()
        second = np.einsum("n,ni,nj->ij", own, flat, flat) + np.eye(flat.shape[1]) * 0.4**2
        np.testing.assert_allclose(ours.mean(0), own @ flat, atol=5 * 1.5 / (n / 4) ** 0.5)
        np.testing.assert_allclose(ours.T @ ours / len(ours), second, atol=5 * 3 / (n / 4) ** 0.5)


def test_a_row_depends_on_its_own_generator_alone(world):
    law, *_ = world
    labels = torch.arange(4)

    def results(rows):
        x_0 = law.draw(labels[rows], [derived_generator(i) for i in rows])
        return x_0, *law.denoised(x_0, 0.5, [derived_generator(i, 1) for i in rows])

    for whole, part in zip(results([0, 1, 2, 3]), results([2, 3]), strict=True):
        torch.testing.assert_close(whole[2:], part)


TREE = tree_images(2)


def chain_images(classes, pattern=0.0):
    """Images of random chains along the leaves, with a pattern of each kind added."""
    generator = derived_generator(11)
    chances = (3 * torch.randn(classes, 16, 10, 10, generator=generator).double()).softmax(-1)
    shape = 10 // classes, 1, 16, 1, 3, 4, 4
    means = TREE.means + pattern * torch.randn(shape, generator=generator)
    return SymbolImages(ChainSymbols(chances), means, 0.1)


LAWS = {
    "contrast": tree_images(2, contrast=0.3),
    "chain": chain_images(10),
    "pattern": chain_images(1, pattern=0.1),
    "coarse": tree_images(2, coarse=2),
    "many rules": tree_images(2, m=400),
    "shuffled": tree_images(2, shuffled=True),
}


def test_shuffled_leaves_are_those_of_the_tree_in_other_places():
    plain, shuffled = (tree_images(2, seed=3, shuffled=flag) for flag in (False, True))
    x_0, moved = (law.draw(torch.arange(10), derived_generator(9)) for law in (plain, shuffled))
    patches = [x.unfold(2, 4, 4).unfold(3, 4, 4).movedim(1, 3).flatten(1, 2) for x in (x_0, moved)]
    equal = (patches[0][:, :, None] == patches[1][:, None]).flatten(3).all(3)
    assert (equal == equal[0]).all()  # every image in the same way
    assert (equal[0].sum(0) == 1).all() and (equal[0].sum(1) == 1).all()
    assert equal[0].diagonal().sum() < 6
    posteriors = [law.class_posterior(x, 1.0) for law, x in ((plain, x_0), (shuffled, moved))]
    torch.testing.assert_close(*posteriors)


@pytest.mark.parametrize("name", LAWS)
def test_posteriors_are_calibrated_and_x0_is_exchangeable_with_its_draw(name):
    """E P(own class) = E sum_c P(c)^2, and x_0 and x̂_0 are two draws from one posterior."""
    law, n, alpha_bar = LAWS[name], 1000, 0.2 if name != "coarse" else 0.5
    generator = derived_generator(7)
    labels = torch.randint(law.n_classes, (n,), generator=generator)
    x_0 = law.draw(labels, generator)
    x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * torch.randn(
        x_0.shape, generator=generator
    )
    posterior = law.class_posterior(x_t, alpha_bar)
    own = posterior[torch.arange(n), labels]
    gap = own - posterior.square().sum(1)
    assert abs(gap.mean()) < 4 * gap.std() / n**0.5
    (once, classes), (again, _) = (law.denoised(x_t, alpha_bar, generator) for _ in range(2))
    gap = own - (classes == labels).float()
    assert abs(gap.mean()) < 4 * gap.std() / n**0.5
    for one, other in [(once, x_0), (again, once)]:  # second moments, those with x_0, evidence
        gap = (one.square() - other.square()).sum((1, 2, 3))
        assert abs(gap.mean()) < 4 * gap.std() / n**0.5
    gap = (once * x_0 - once * again).sum((1, 2, 3))
    assert abs(gap.mean()) < 4 * gap.std() / n**0.5
    gap = law.log_evidence(x_0, 1.0) - law.log_evidence(once, 1.0)
    assert abs(gap.mean()) < 4 * gap.std() / n**0.5


@pytest.mark.parametrize(
    ("L", "middle", "width"), [(1, -1.26, 1.75), (2, -1.39, 1.16), (3, -1.47, 0.76)]
)
def test_known_middle_and_width_of_trees(L, middle, width):
    """One draw of rules and colours at another size of sample: science.md, section 8."""
    law, n = tree_images(L), 600
    generator = derived_generator(8)
    labels = torch.arange(n) % 10
    x_0 = law.draw(labels, generator)
    kept = []
    for ln_snr in (middle - width / 2, middle, middle + width / 2):
        alpha_bar = 1 / (1 + np.exp(-ln_snr))
        noise = torch.randn(x_0.shape, generator=generator)
        x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise
        own = law.class_posterior(x_t, alpha_bar)[torch.arange(n), labels].mean()
        kept.append((own - 0.1) / 0.9)
    assert abs(kept[1] - 0.5) < 0.15 and kept[0] < 0.25 and kept[2] > 0.75


def test_coarse_images_are_means_of_the_fine_ones():
    fine, coarse = tree_images(2, texture=1e-7, contrast=0.3), tree_images(2, 0, 1e-7, 0.3, 4)
    labels = torch.arange(50) % 10
    x_0, small = (law.draw(labels, derived_generator(9)) for law in (fine, coarse))
    torch.testing.assert_close(small, avg_pool2d(x_0, 4), atol=1e-5, rtol=0)
    spread = avg_pool2d(0.1 * torch.randn(2000, 1, 4, 4, generator=derived_generator(1)), 4).std()
    assert tree_images(2, coarse=4).texture == pytest.approx(float(spread), rel=0.06)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tree_images(0), "L must be at least 1, got 0"),
        (lambda: tree_images(1, texture=0), "texture must be positive, got 0"),
        (lambda: tree_images(1, contrast=np.nan), "means must be finite, got nan"),
        (lambda: TREE.class_posterior(torch.zeros(1, 3, 8, 8), 0.5), r"\(n, 3, 16, 16\), got"),
        (lambda: TREE.class_posterior(torch.zeros(1, 3, 16, 16), 1.2), "alpha_bar.*1.2"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
