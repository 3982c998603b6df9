import pytest
import torch

from hierphase.analysis.frequency_bands import band_similarity, frequency_bands, max_bands


def waves(period, n=1, side=32):
    """(n, 1, side, side) plane waves of random phase."""
    phase = torch.rand(n, 1, 1, 1, generator=torch.Generator().manual_seed(period)) * 6.28
    return torch.sin(6.2832 * torch.arange(side) / period + phase).expand(n, 1, side, side)


def test_bands_add_up_and_order_by_scale():
    images = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frequency_bands(images, 5).sum(dim=0), images)
    torch.testing.assert_close(frequency_bands(images, 1)[0], images)
    strongest = [
        frequency_bands(waves(period), 5).square().sum(dim=(1, 2, 3, 4)).argmax().item()
        for period in (2, 6, 14, 22, 32)
    ]
    assert strongest == [0, 1, 2, 3, 4]
    constant = frequency_bands(torch.full((1, 1, 32, 32), 0.3), 5)
    torch.testing.assert_close(constant[-1], torch.full((1, 1, 32, 32), 0.3))
    assert constant[:-1].abs().max() < 1e-6


def test_a_change_of_details_spares_the_coarse_bands_and_the_other_way_round():
    fine, other_fine = waves(2, 4), waves(3, 4).mT
    coarse, other_coarse = waves(26, 4), waves(20, 4).mT
    samples = torch.stack([fine + coarse, other_fine + coarse, fine + other_coarse])
    mean_image = torch.full((1, 32, 32), 0.7)
    found = band_similarity(fine + coarse + 0.7, samples + 0.7, mean_image, 4)
    assert found.shape == (4, 3, 4)
    torch.testing.assert_close(found[:, 0], torch.ones(4, 4))
    assert (found[0, 1].abs() < 0.2).all() and (found[3, 1] > 0.95).all()
    assert (found[0, 2] > 0.9).all()
    assert (found[1:, 2].abs() < 0.2).all()  # of the fine wave, too little is left in these bands


def test_too_many_bands_are_refused():
    for side in (4, 8, 28, 32, 256):
        frequency_bands(torch.zeros(1, 1, side, side), max_bands(side))
        with pytest.raises(ValueError, match=f"at side {side} must be at most {max_bands(side)}"):
            frequency_bands(torch.zeros(1, 1, side, side), max_bands(side) + 1)
    with pytest.raises(ValueError, match="n_bands at side 8 must be at least 1, got 0"):
        frequency_bands(torch.zeros(1, 1, 8, 8), 0)
    with pytest.raises(ValueError, match=r"samples must be of shape \(n_times, 2, 1, 8, 8\), got"):
        band_similarity(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), torch.zeros(1, 8, 8), 2)
