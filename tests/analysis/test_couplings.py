"""Couplings of blocks: by loops over pixels, and of laws of which theory knows them; energies."""

import numpy as np
import pytest
import torch

from hierphase.analysis import signs


def power_law_fields(n, generator, side=8):
    """Gaussian images (n, 1, side, side) with the spectrum of photographs, float64."""
    k = torch.fft.fftfreq(side, dtype=torch.float64)
    amplitude = 1 / (k[:, None].square() + k.square() + 0.01).sqrt() ** 1.5
    white = torch.randn(n, 1, side, side, generator=generator, dtype=torch.float64)
    return torch.fft.ifft2(torch.fft.fft2(white) * amplitude).real


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def couplings_of(change, size, **options):
    """Of changes in groups of ``size``, of x_0 = 0."""
    old = torch.arange(len(change)) // size
    return signs.couplings(torch.zeros_like(change), change, old, old + len(change), **options)


def cumulant(a, b):
    """Fisher's k-statistic of (a, a, b, b), of numbers about their means."""
    n = len(a)
    fourth = n * (n + 1) * (a * a * b * b).sum()
    pairs = (a * a).sum() * (b * b).sum() + 2 * (a * b).sum() ** 2
    return (fourth - (n - 1) * pairs) / ((n - 1) * (n - 2) * (n - 3))


def test_coupling_by_loops():
    """Over groups, pairs of blocks and pairs of pixels; its denominator by different images."""
    generator = seeded(2)
    x0, sampled = torch.randn(2, 23, 2, 6, 4, generator=generator, dtype=torch.float64)
    old = torch.tensor([0] * 9 + [1] * 8 + [2] * 6)
    new = torch.tensor([1] * 9 + [0] * 3 + [2] * 5 + [2] * 6)
    sampled += (x0 + old.view(-1, 1, 1, 1)).square()
    change = (sampled - x0)[:9]
    change = (change - change.mean(dim=0)).numpy()
    blocks = {
        (r, c): change[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].reshape(9, -1)
        for r in range(3)
        for c in range(2)
    }
    found = signs.couplings(x0, sampled, old, new, block=2)
    assert found.shape == (1, 4, 2)
    near = lambda rows, columns: rows + columns == 1  # noqa: E731
    far = lambda rows, columns: rows + columns > 1 and (rows >= 1.5 or columns >= 1)  # noqa: E731
    for kind, wanted in {0: near, 1: far, 3: lambda rows, columns: rows + columns == 0}.items():
        kappa = 0
        for p, own in blocks.items():
            for q, other in blocks.items():
                if wanted(abs(p[0] - q[0]), abs(p[1] - q[1])):
                    kappa += sum(cumulant(a, b) for a in own.T for b in other.T)
        assert found[0, kind, 0] == pytest.approx(9 * kappa, rel=1e-9)
    kept = signs.couplings(x0, sampled, old, new, kept=True, block=2)
    assert kept[0, 2, 0] == pytest.approx(5 * (sampled - x0)[17:].var(dim=0).sum().item())


def test_scale_of_the_coupling_by_different_images():
    """tr S_p tr S_q from products of four different images, of which each pair gives one trace."""
    change = torch.randn(6, 1, 2, 2, generator=seeded(3), dtype=torch.float64)
    x = change.flatten(1).numpy()
    products = [
        (x[i, a] - x[j, a]) ** 2 / 2 * (x[k, b] - x[m, b]) ** 2 / 2
        for i in range(6) for j in range(6) for k in range(6) for m in range(6)
        if len({i, j, k, m}) == 4
        for a, b in ((0, 3), (3, 0), (1, 2), (2, 1))
    ]  # fmt: skip
    found = couplings_of(change, 6, block=1)
    assert found[0, 1, 1] == pytest.approx(6 * 4 * np.mean(products))


def mean_and_error(contributions):
    """Ratio of sums, and its standard error by the delta method, of many groups."""
    numerator, denominator = np.moveaxis(contributions, -1, 0)
    found = numerator.mean(axis=0) / denominator.mean(axis=0)
    error = (numerator - found * denominator).std(axis=0) / len(numerator) ** 0.5
    return found, error / denominator.mean(axis=0)


@pytest.mark.parametrize("size", [6, 9])
def test_coupling_is_zero_for_one_covariance(size):
    """In groups as small as six, of images whose blocks are strongly correlated."""
    change = power_law_fields(size * 2000, seeded(4))
    found, error = mean_and_error(couplings_of(change, size)[:, :2])
    assert (np.abs(found) < 3 * error).all() and error.max() < 0.015


@pytest.mark.parametrize("size", [6, 30])
def test_coupling_of_a_scale_mixture(size):
    """x = r g: kappa is Var(r^2) (tr S_p tr S_q + 2 |S_pq|^2) with S of g."""
    generator = seeded(5)
    fields = power_law_fields(12_000, generator)
    covariance = torch.cov(fields.flatten(1).T, correction=0)
    blocks = torch.arange(64).view(2, 4, 2, 4).transpose(1, 2).reshape(4, 16)
    parts = covariance[blocks[:, None, :, None], blocks[None, :, None, :]]
    traces = parts.diagonal(dim1=2, dim2=3).sum(-1).diagonal()
    squares = parts.square().sum(dim=(2, 3))
    near, far = ([0, 0, 1, 2], [1, 2, 3, 3]), ([0, 1], [3, 2])
    r2 = torch.tensor([0.25, 1.75])
    wanted = [
        (r2.var(correction=0) / r2.mean() ** 2)
        * (1 + 2 * squares[i, j].sum() / (traces[i,] * traces[j,]).sum())
        for i, j in (near, far)
    ]
    r = r2[torch.randint(2, (12_000,), generator=generator)].sqrt()
    found, error = mean_and_error(couplings_of(r.view(-1, 1, 1, 1) * fields, size)[:, :2])
    assert (np.abs(found - wanted) < 3 * error).all() and error.max() < 0.05


def test_pooled_groups_couple_falsely():
    """Gaussian groups of unequal variance: together, about additive means, they read .15."""
    generator = seeded(6)
    old, shift = torch.randint(4, (2, 2000), generator=generator)
    new = (old + shift % 3 + 1) % 4
    variance = 1 + 0.15**0.5 * torch.where(old < new, 1, -1).double()
    means = torch.randn(2, 4, 1, 8, 8, generator=generator, dtype=torch.float64)
    change = variance.sqrt().view(-1, 1, 1, 1) * torch.randn(2000, 1, 8, 8, generator=generator)
    change = change + means[0, old] + means[1, new]
    right = signs.ratio(signs.couplings(torch.zeros_like(change), change, old, new)).value
    classes = torch.cat([torch.eye(4)[old], torch.eye(4)[new]], dim=1).double()
    effects = torch.linalg.lstsq(classes, change.flatten(1), driver="gelsd").solution
    rest = change - (classes @ effects).view(change.shape)
    pooled = signs.ratio(couplings_of(rest, len(rest))).value
    assert np.abs(right[:2]).max() < 0.015
    assert np.abs(pooled[:2] - 0.15).max() < 0.03


def test_energy_ratio_by_hand():
    old = torch.tensor([0] * 6 + [1] * 6)
    change = torch.zeros(12, 1, 8, 8)
    change[:6, 0, 0, 0] = torch.tensor([1.0, -1, 1, -1, 1, -1])  # squares 6 of 5 degrees
    change[6:, 0, 0, 0] = 5 + 2 * change[:6, 0, 0, 0]  # squares 24
    changed = signs.couplings(torch.zeros(12, 1, 8, 8), change, old, 1 - old)[:, 2]
    kept = signs.couplings(torch.zeros(12, 1, 8, 8), change * 3, old, old, kept=True)[:, 2]
    assert changed.tolist() == [[6, 5], [24, 5]] and kept.tolist() == [[54, 5], [216, 5]]
    assert signs.ratio(changed, over=kept).value == pytest.approx(1 / 9)


def test_variance_is_unbiased_in_groups_of_any_size():
    change = torch.randn(3000, 1, 8, 8, generator=seeded(8))
    small, large = couplings_of(change, 6)[:, 2], couplings_of(change, 100)[:, 2]
    assert signs.ratio(small).value == pytest.approx(64, rel=0.02)
    assert signs.ratio(small, over=large).value == pytest.approx(1, rel=0.02)


def test_ladder_has_a_rung_for_each_scale_that_changes_together():
    """Gaussian noise whose scale is drawn for squares of 4 pixels, or of 8: one rung, or two."""
    generator, found = seeded(9), {}
    for square in (4, 8):
        r2 = torch.where(
            torch.rand(1500, 1, *2 * [16 // square], generator=generator) < 0.5, 0.2, 1.8
        )
        r2 = r2.repeat_interleave(square, 2).repeat_interleave(square, 3)
        change = r2.sqrt() * torch.randn(1500, 1, 16, 16, generator=generator)
        old = torch.arange(1500) // 30
        pairs = torch.zeros_like(change), change, old, old + 50
        found[square] = [signs.coupling_ladder(*pairs, block) for block in (2, 4, 8)]
    # of pairs of neighbours of 2 (4) pixels, 4/7 share a square of 4, 6/7 (2/3) one of 8; in units
    # of Var r^2 they couple by 1, and a block of m numbers in one square with itself by 1 + 2 / m
    expected = {4: [4 / 7 / 1.5, 0, 0], 8: [6 / 7 / 1.5, 2 / 3 / 1.125, 0]}
    for square, rungs in ((4, 1), (8, 2)):
        ladder = found[square]
        assert [rung.value for rung in ladder] == pytest.approx(expected[square], abs=0.12)
        assert [rung.low > 0 for rung in ladder] == [True] * rungs + [False] * (3 - rungs)
