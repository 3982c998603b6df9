import numpy as np
import pytest
import torch

from hierphase.analysis.two_mode_mixture import TwoModeMixture


@pytest.mark.parametrize(
    "mixture",
    [
        TwoModeMixture(d=2, r=0.8),
        TwoModeMixture(d=2, r=0.8, component=2),
        TwoModeMixture(d=2, r=0.8, exponent=1.2),
        TwoModeMixture(d=2, r=0.5, exponent=2.0, component=2),
    ],
)
def test_posterior_of_mode_and_datum_is_the_one_of_importance_sampling(mixture):
    """In d = 2, prior draws weighted by the likelihood of x_t give every posterior mean."""
    alpha_bar = 0.3
    generator = torch.Generator().manual_seed(0)
    x_t = torch.tensor([[[0.4, -0.1]]])
    x_0, labels = mixture.batch(400_000, generator)
    squares = (x_t - alpha_bar**0.5 * x_0).square().sum((1, 2))
    weights = torch.softmax(-squares / (2 * (1 - alpha_bar)), 0)
    expected_class = (weights * labels).sum()
    assert mixture.class_posterior(x_t, alpha_bar)[0, 1].item() == pytest.approx(
        expected_class.item(), abs=0.01
    )
    draws, _ = mixture.denoised(x_t.expand(200_000, -1, -1), alpha_bar, generator)
    for power in (1, 2, 3):
        expected = (weights[:, None] * x_0[:, 0] ** power).sum(0)
        torch.testing.assert_close((draws[:, 0] ** power).mean(0), expected, atol=0.03, rtol=0)
    product = (weights * x_0[:, 0].prod(1)).sum()
    assert draws[:, 0].prod(1).mean().item() == pytest.approx(product.item(), abs=0.02)


@pytest.mark.parametrize("exponent", [0.0, 1.2])
def test_only_the_component_of_the_mean_tells_the_class(exponent):
    """P(y = +1 | x_t) = 1/(1 + exp(-2 sqrt(abar) mu.x_t / (abar lambda + 1 - abar)))."""
    mixture, alpha_bar = TwoModeMixture(d=1024, r=0.1, exponent=exponent, component=200), 0.6
    x_t = torch.randn(50, 1, 1024, generator=torch.Generator().manual_seed(0))
    noisy = alpha_bar * mixture.variances[1, 199] + 1 - alpha_bar
    logit = 2 * alpha_bar**0.5 * (x_t.double() @ mixture.means[1, 0])[:, 0] / noisy
    found = mixture.class_posterior(x_t, alpha_bar)[:, 1]
    torch.testing.assert_close(found, torch.sigmoid(logit).float())


@pytest.mark.parametrize("component", [1, 5, 64])
@pytest.mark.parametrize("exponent", [0.0, 1.2])
def test_data_have_the_spectrum_and_the_class_mean_that_are_asked_for(exponent, component):
    """Against the cosines written out, and the size of mu."""
    d, n = 64, 20_000
    mixture = TwoModeMixture(d, r=0.5, exponent=exponent, component=component)
    x_0, labels = mixture.batch(n, torch.Generator().manual_seed(3))
    k = np.arange(d)
    cosines = np.cos(np.pi * k[:, None] * (k + 0.5) / d) * np.sqrt(np.where(k, 2, 1) / d)[:, None]
    components = x_0[:, 0].numpy() @ cosines.T
    signs = 2 * labels.numpy() - 1
    mean = (signs[:, None] * components).mean(0)
    expected = np.zeros(d)
    expected[component - 1] = 0.5 * d**0.5
    variance = (components - signs[:, None] * expected).var(0)
    power = (k + 1.0) ** -exponent
    power /= power.mean()
    assert np.all(np.abs(mean - expected) < 5 * np.sqrt(power / n))
    assert np.all(np.abs(variance / power - 1) < 5 * np.sqrt(2 / n))
    if component == 1:
        np.testing.assert_allclose(mixture.means[1], 0.5, rtol=1e-6)


def test_without_noise_the_datum_comes_back_and_with_all_noise_the_prior():
    mixture = TwoModeMixture(d=64, r=0.5)
    generator = torch.Generator().manual_seed(1)
    x_0, labels = mixture.batch(2000, generator)
    torch.testing.assert_close(mixture.denoised(x_0, 1.0, generator)[0], x_0)
    assert torch.equal(mixture.class_posterior(x_0, 1.0).argmax(1), labels)
    noise = torch.randn(x_0.shape, generator=generator)
    fresh, _ = mixture.denoised(noise, 0.0, generator)
    assert (fresh.mean((1, 2)) > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert fresh.var().item() == pytest.approx(1.25, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"component": 0}, "component must be at least 1, got 0"),
        ({"d": 16, "component": 17}, "component must be at most 16, got 17"),
        ({"r": 0}, "r must be positive, got 0"),
        ({"exponent": -0.5}, r"exponent must be at least 0, got -0\.5"),
        ({"exponent": float("nan")}, "exponent must be at least 0, got nan"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TwoModeMixture(**changes)
