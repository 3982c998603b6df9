import pytest
import torch

from hierphase.mixtures import TwoModeMixture


def test_posterior_of_mode_and_datum_is_the_one_of_importance_sampling():
    """In d = 2, prior draws weighted by the likelihood of x_t give every posterior mean."""
    mixture, alpha_bar = TwoModeMixture(d=2, r=0.8), 0.3
    generator = torch.Generator().manual_seed(0)
    x_t = torch.tensor([[[0.4, -0.1]]])
    x_0, labels = mixture.batch(400_000, generator)
    squares = (x_t - alpha_bar**0.5 * x_0).square().sum((1, 2))
    weights = torch.softmax(-squares / (2 * (1 - alpha_bar)), 0)
    expected_class = (weights * labels).sum()
    assert mixture.class_probability(x_t, alpha_bar).item() == pytest.approx(
        expected_class.item(), abs=0.01
    )
    draws = mixture.denoised(x_t.expand(200_000, -1, -1), alpha_bar, generator)
    for power in (1, 2, 3):
        expected = (weights[:, None] * x_0[:, 0] ** power).sum(0)
        torch.testing.assert_close((draws[:, 0] ** power).mean(0), expected, atol=0.03, rtol=0)
    product = (weights * x_0[:, 0].prod(1)).sum()
    assert draws[:, 0].prod(1).mean().item() == pytest.approx(product.item(), abs=0.02)


def test_without_noise_the_datum_comes_back_and_with_all_noise_the_prior():
    mixture = TwoModeMixture(d=64, r=0.5)
    generator = torch.Generator().manual_seed(1)
    x_0, labels = mixture.batch(2000, generator)
    torch.testing.assert_close(mixture.denoised(x_0, 1.0, generator), x_0)
    assert torch.equal(mixture.class_probability(x_0, 1.0) > 0.5, labels == 1)
    noise = torch.randn(x_0.shape, generator=generator)
    fresh = mixture.denoised(noise, 0.0, generator)
    assert (fresh.mean((1, 2)) > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert fresh.var().item() == pytest.approx(1.25, abs=0.03)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="r must be positive, got 0"):
        TwoModeMixture(r=0)
    with pytest.raises(ValueError, match=r"d must be an integer, got 1\.5"):
        TwoModeMixture(d=1.5)
