"""Signs of a hierarchy: by hand, by loops over images, and where theory knows the value."""

import numpy as np
import pytest
import torch

from hierphase.analysis import bootstrap, signs

LN_SNR = np.linspace(-9, 9, 181)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(mean, variance, points=101):
    """Quadrature points and weights of a Gaussian."""
    x, weights = np.polynomial.hermite_e.hermegauss(points)
    return mean + np.sqrt(variance) * x, weights / weights.sum()


# curves


def test_order_parameter_by_hand():
    posterior = [[[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]]]
    assert np.allclose(signs.order_parameter(posterior, [0]), [[(0.7 - 1 / 3) / (2 / 3), 0]])
    # super-classes of one and two classes: unrelated images agree in 1/9 + 4/9
    together = signs.order_parameter(posterior, [1], groups=[0, 1, 1])
    assert np.allclose(together, [[(0.3 - 5 / 9) / (4 / 9), (2 / 3 - 5 / 9) / (4 / 9)]])


def universal_curve():
    """K of two equal Gaussians at distance 1, of which x_t tells E tanh(x / 2)."""
    snr = np.exp(LN_SNR)
    x, weights = normal(snr[:, None] / 2, snr[:, None])
    return np.tanh(x / 2) @ weights


def test_width_of_two_gaussians():
    curve = universal_curve()
    assert signs.width(LN_SNR, curve) == pytest.approx(3.42, abs=0.01)
    # the squared distance only shifts it
    assert signs.width(LN_SNR + 2, curve) == pytest.approx(signs.width(LN_SNR, curve))


def test_widths_over_images_and_of_each():
    """Curves of one width with middles apart: the mean curve is wider than each."""
    middles = np.random.default_rng(0).normal(scale=1.5, size=(300, 1))
    k = 1 / (1 + np.exp(-(LN_SNR - middles)))
    one, censored = signs.width_per_image(LN_SNR, k)
    assert one.value == pytest.approx(2 * np.log(9), abs=0.01) and censored == 0
    over = signs.of_mean_curve(lambda k: signs.width(LN_SNR, k), k)
    assert over.low < over.value < over.high and over.low > one.high + 0.5
    half = signs.of_mean_curve(lambda k: signs.crossing(LN_SNR, k, 0.5), k)
    assert half.low < 0 < half.high
    assert half.high - half.low == pytest.approx(2 * 1.96 * 1.5 / 300**0.5, rel=0.2)


def test_images_that_never_cross_are_infinitely_wide():
    k = 1 / (1 + np.exp(-LN_SNR / np.array([[1], [2], [3], [4], [5]])))
    k[4] = 0.3
    found, share = signs.width_per_image(LN_SNR, k)
    # K of the width-4 curve begins at .095; 2, 3 and 4 are wider than the range
    assert share == pytest.approx(0.2) and found.value == pytest.approx(6 * np.log(9), rel=1e-2)
    found, share = signs.width_per_image(LN_SNR, np.vstack([k, k[4:], k[4:]]))
    assert share == pytest.approx(3 / 7) and found.high == np.inf
    found, share = signs.width_per_image(LN_SNR, np.full((3, 181), 0.3))
    assert share == 1 and found.value == found.low == found.high == np.inf
    assert signs.of_mean_curve(lambda k: signs.width(LN_SNR, k), np.full((3, 181), 0.3)) is None


def test_noise_neither_shrinks_nor_stretches_the_width():
    rng, grid = np.random.default_rng(1), np.linspace(-9, 9, 121)
    k = 1 / (1 + np.exp(-grid))
    noisy = k + 0.03 * rng.normal(size=(4000, 121))
    noisy[:, [0, -1]] = k[[0, -1]]  # both ends are known
    found = signs.crossing(grid, noisy, 0.9).mean()
    nearest = grid[(noisy >= 0.9).argmax(axis=1)].mean()
    outermost = grid[121 - (noisy < 0.9)[:, ::-1].argmax(axis=1)].mean()
    assert found == pytest.approx(np.log(9), abs=0.05)
    assert nearest < np.log(9) - 0.05 and outermost > np.log(9) + 0.2


def test_crossing_is_exact_for_a_line():
    assert signs.crossing([0, 1, 3], [[0, 0.5, 1], [0.2, 0.2, 0.6]], 0.25) == pytest.approx(
        [0.5, 1.25]
    )
    assert np.isnan(signs.crossing([0, 1], [[0.3, 1], [0, 0.2]], 0.25)).all()


def test_superclasses():
    x0 = torch.tensor([0.0, 0.2, 5.0, 5.3, 9.0]).repeat(3).view(15, 1, 1, 1).expand(15, 1, 2, 2)
    labels = torch.arange(5).repeat(3)
    assert signs.superclasses(x0, labels, 2).tolist() == [0, 0, 1, 1, 1]
    assert signs.superclasses(x0, labels, 3).tolist() == [0, 0, 1, 1, 2]


def test_superclasses_survive_more_noise():
    """Posterior of two levels: four classes are told at 4 in ln SNR, pairs of them at 2."""
    pair, own = 1 / (1 + np.exp(-(LN_SNR - 2) * 3)), 1 / (1 + np.exp(-(LN_SNR - 4) * 3))
    right = (1 + pair) / 2
    shares = [right * (1 + own) / 2, right * (1 - own) / 2, (1 - right) / 2, (1 - right) / 2]
    posterior = np.broadcast_to(np.stack(shares, axis=1), (50, 181, 4))
    k = signs.order_parameter(posterior, np.zeros(50, dtype=int))
    above = signs.order_parameter(posterior, np.zeros(50, dtype=int), groups=[0, 0, 1, 1])
    gap = signs.of_mean_curve(
        lambda k: -np.diff(signs.crossing(LN_SNR, k, 0.5), axis=1)[:, 0], np.stack([k, above], 1)
    )
    assert np.allclose(above, pair)
    assert gap.value == pytest.approx(1.64, abs=0.01)  # of K = ((1 + pair)(1 + own) - 1) / 3
    mixed = signs.order_parameter(posterior, np.zeros(50, dtype=int), groups=[0, 1, 0, 1])
    assert signs.crossing(LN_SNR, mixed[0], 0.5) > signs.crossing(LN_SNR, above[0], 0.5) + 1


# similarity


def test_auc_of_independent_images_and_of_copies():
    generator = seeded()
    x0, other = (torch.randn(1200, 3, 4, 4, generator=generator) for _ in range(2))
    old = torch.randint(4, (1200,), generator=generator)
    new = (old + torch.randint(1, 4, (1200,), generator=generator)) % 4
    means = torch.randn(2, 4, 3, 4, 4, generator=generator)
    x0, other = x0 + means[0, old], other + means[1, new]
    found = [signs.ratio(signs.similarity_auc(x0, c * x0 + other, old, new)) for c in (0, 0.3, 99)]
    assert found[0].low < 0.5 < found[0].high
    assert 0.8 < found[1].value < 0.99 and found[2].value == 1


def test_auc_by_loops():
    generator = seeded(1)
    x0, sampled = torch.randn(2, 40, 2, 3, 3, generator=generator)
    x0[:, 1] *= 7  # a loud channel counts no more
    sampled, old = sampled + 0.5 * x0, torch.randint(2, (40,), generator=generator)
    new = torch.randint(2, (40,), generator=generator)
    mean = x0.mean(dim=0)
    sd = (x0 - mean).square().mean(dim=(0, 2, 3)).sqrt()
    a, b = (((x - mean) / sd[:, None, None]).flatten(1) for x in (sampled, x0))
    shares = []
    for i in range(40):
        others = [j for j in range(40) if j != i and (old[j], new[j]) == (old[i], new[i])]
        if old[i] != new[i] and others:
            cosine = torch.cosine_similarity(a[i], b, dim=-1)
            shares.append(np.mean([bool(cosine[j] < cosine[i]) for j in others]))
    found = signs.similarity_auc(x0, sampled, old, new)
    assert found[:, 1].sum() == len(shares)
    assert signs.ratio(found).value == pytest.approx(np.mean(shares), abs=1e-6)


def test_auc_of_equal_images_is_a_half():
    same = torch.ones(6, 1, 2, 2)
    same[:3] = -1
    old = torch.tensor([0, 0, 0, 1, 1, 1])
    assert signs.ratio(signs.similarity_auc(same, same, old, 1 - old)).value == 0.5


def test_parts_against_the_whole():
    """White noise that agrees little: 1/sqrt(blocks). One number a channel: parts tell it all."""
    generator = seeded(2)
    old, n = torch.arange(8000) // 20, 8000
    for sides, wanted in ((8, 0.5), (1, 1)):
        x0, noise = torch.randn(2, n, 1, sides, sides, generator=generator).expand(2, n, 1, 8, 8)
        x = x0, 0.1 * x0 + noise, old, old + n
        part, whole = (
            signs.ratio(signs.similarity_auc(*x, block)).value - 0.5 for block in (4, None)
        )
        assert part / whole == pytest.approx(wanted, abs=0.06)


# splices


def test_splices_by_hand():
    x0 = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    left, right = (signs.checkerboards(4, 4, 4, 2)[k].int().tolist() for k in (0, 1))
    assert left == [[1, 1, 0, 0]] * 4 and right == [[0, 0, 1, 1]] * 4
    squares = signs.checkerboards(4, 4, 2, 2)[0].int().tolist()
    assert squares == [[1, 1, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2
    labels = torch.tensor([0, 1, 0, 1])
    found = signs.spliced(x0, labels, signs.checkerboards(4, 4, 2, 4), seeded())
    # in each class two, and so each has a part of the other
    for i, other in enumerate([2, 3, 0, 1]):
        assert found[0, i, 0, :, 0].tolist() == [other, other, i, i]
        assert found[1, i, 0, :, 0].tolist() == [i, i, other, other]


def test_every_image_gives_once_and_never_to_itself():
    labels = torch.randint(3, (60,), generator=seeded())
    x0 = torch.arange(60.0).view(60, 1, 1, 1).expand(60, 1, 2, 2)
    givers = signs.spliced(x0, labels, torch.ones(1, 2, 2, dtype=torch.bool), seeded(1))[
        0, :, 0, 0, 0
    ]
    assert sorted(givers.tolist()) == list(range(60))
    assert (givers != torch.arange(60)).all()
    assert (labels[givers.long()] == labels).all()


def test_splice_loss_by_hand():
    posterior = torch.tensor([[[1.0, 0], [0.5, 0.5]], [[0, 1], [0.25, 0.75]]])
    found = signs.splice_loss(posterior, torch.tensor([0, 1]))
    assert isinstance(found, bootstrap.Estimate)
    assert found.value == pytest.approx((0 + 1 + 0.5 + 0.25) / 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, c: signs.couplings(x, x[:5], c, c), "sampled must be of shape"),
        (lambda x, c: signs.similarity_auc(x, x / 0, c, c + 1), "sampled must be finite"),
        (lambda x, c: signs.spliced(x, torch.arange(8), x[:1, 0], None), "others of class 0"),
        (lambda x, c: signs.order_parameter([[[1.2, 0]]], [0]), "between 0 and 1, got 1.2"),
        (lambda x, c: signs.crossing([0, 1], [0, np.nan], 0.5), "curves must be finite"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))
