import numpy as np
import pytest
import torch

from hierphase.analysis import speciation
from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.diffusion.datasets import digits
from hierphase.rhm.corruption import ddpm_scheduler
from hierphase.seeds import derived_generator

ALPHA_BAR = ddpm_scheduler().alphas_cumprod.double()
LEVELS = torch.cat([torch.ones(1), ALPHA_BAR[1:], torch.zeros(1)]).logit()


def time(ln_snr):
    return speciation.reversal_time(ln_snr, LEVELS)


def test_largest_variance_of_known_data():
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    images = generator.normal(size=(4000, 6)) * [3, 1, 1, 1, 0.5, 0.1] @ axes + 5
    expected = np.linalg.svd(images - images.mean(0), compute_uv=False)[0] ** 2 / 4000
    found = speciation.largest_variance(torch.from_numpy(images).view(4000, 1, 2, 3))
    assert found == pytest.approx(expected, rel=1e-12) and found == pytest.approx(9, rel=0.1)
    with pytest.raises(ValueError, match="images must be finite, got nan"):
        speciation.largest_variance(torch.full((3, 2), torch.nan))


def test_pair_variances_are_eigenvalues_of_two_means():
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.normal(size=(90, 2, 5)))
    labels = torch.arange(90) % 3
    means = [images[labels == c].mean(0) for c in range(3)]
    pairs = ((0, 1), (0, 2), (1, 2))
    expected = [speciation.largest_variance(torch.stack([means[a], means[b]])) for a, b in pairs]
    found = speciation.pair_variances(images, labels).tolist()
    assert found == pytest.approx(expected)


def test_predictions_for_the_books_images():
    """Values of an independent computation."""
    variance = speciation.largest_variance(digits().train_images)
    assert variance == pytest.approx(2.79, abs=0.03)
    for known, t in ((79.2, 0.657), (2.79, 0.316)):
        level = speciation.speciation_level(known)
        assert torch.tensor(level).sigmoid() * known == pytest.approx(1)
        assert time(level) == pytest.approx(t, abs=1.5e-3)  # t was counted from 1 there
    assert speciation.speciation_level([1, 0.5, 2]).tolist() == [np.inf, np.inf, 0]
    assert time(np.inf) == 0
    with pytest.raises(ValueError, match=r"variance must not be negative, got -0\.5"):
        speciation.speciation_level([2, -0.5])


def test_reversal_time_is_that_of_the_schedule_and_interpolates():
    assert time(LEVELS).tolist() == [t / 1000 for t in range(1001)]
    assert time((LEVELS[400] + LEVELS[401]) / 2) == pytest.approx(0.4005)


@pytest.mark.parametrize("t", [0.351, 0.5])
def test_rescaled_level_keeps_what_an_exact_denoiser_knows(t):
    """Images in [0, 1], and the same in [-1, 1]: one posterior, at the level converted."""
    generator = derived_generator(0)
    means = torch.rand(3, 8, generator=generator, dtype=torch.float64)
    ours, theirs = (GaussianMixture(c * means, c**2 * 0.01 * torch.eye(8).expand(3, 8, 8).double())
                    for c in (2, 1))  # fmt: skip
    theirs_level = LEVELS[int(1000 * t)].item()
    level = speciation.rescaled_level(theirs_level, intensities=1)
    assert level == pytest.approx(theirs_level - np.log(4))
    x_0 = theirs.draw(torch.arange(3), generator).double()
    noise = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    posteriors = []
    for law, c, ln_snr in ((theirs, 1, theirs_level), (ours, 2, level)):
        alpha_bar = torch.tensor(ln_snr, dtype=torch.float64).sigmoid()
        x_t = alpha_bar.sqrt() * c * x_0 + (1 - alpha_bar).sqrt() * noise
        posteriors.append(law.class_posterior(x_t, alpha_bar.item()))
    torch.testing.assert_close(*posteriors)
    assert posteriors[0].max() < 0.999
    with pytest.raises(ValueError, match="spans of intensities must be positive, got 0 and 2"):
        speciation.rescaled_level(0.0, 0)


def test_speciation_in_two_scales_is_one_event_up_to_the_noise_that_is_there_already():
    """The criterion compares with noise of variance 1: at large variance the scale is no matter."""
    theirs = speciation.speciation_level(79.2 / 4)
    ours = speciation.rescaled_level(theirs, intensities=1)
    exact = np.log(1 / (79.2 - 4))  # SNR 1/(Lambda/4 - 1), over 4
    assert ours == pytest.approx(exact)
    assert ours == pytest.approx(speciation.speciation_level(79.2), abs=0.06)


def test_published_times_are_those_of_our_schedule():
    for t, snr in speciation.PUBLISHED.values():
        assert time(np.log(snr)) == pytest.approx(t, abs=2e-3)
    t, snr = speciation.PUBLISHED["MNIST"]
    level = speciation.rescaled_level(np.log(snr), intensities=1)
    assert level == pytest.approx(-3.257, abs=1e-3)
    assert time(level) == pytest.approx(0.57, abs=2e-3)
