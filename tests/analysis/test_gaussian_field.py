import numpy as np
import pytest
import torch
from scipy.fft import dct

from hierphase.analysis.gaussian_field import (
    GaussianField,
    power_law_classes,
    power_law_covariance,
    spectral_exponent,
)
from hierphase.seeds import derived_generator

ROOT = np.random.default_rng(0).normal(size=(6, 4))  # two modes without variance
COVARIANCE = ROOT @ ROOT.T


@pytest.fixture(scope="module")
def field():
    return GaussianField(np.arange(6.0), COVARIANCE)


# Of sums of some ten numbers of about 30, a hundred times over.
ROUNDING = 100 * 30 * np.finfo(float).eps


def sample(field, n, generator):
    """n fields in float64: what all noise leaves is the prior."""
    return field.denoised(torch.zeros(n, *field.means.shape[1:]).double(), 0.0, generator)[0]


def reconstruct(field, x0, alpha_bar, generator):
    """x̂0(t), noise and posterior drawn anew for each."""
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    x_t = alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise
    return field.denoised(x_t, alpha_bar, generator)[0]


@pytest.mark.parametrize("seed", range(20))
def test_modes_without_variance_stay_empty(seed):
    """The square root of an eigenvalue that is zero up to rounding would be 1e-8, not zero."""
    generator = derived_generator(seed)
    root = np.random.default_rng(seed).normal(size=(12, 5))
    field = GaussianField(np.zeros(12), root @ root.T)
    outside = np.linalg.svd(root)[0][:, 5:]
    drawn = sample(field, 10, generator)
    assert abs(drawn.numpy() @ outside).max() < ROUNDING
    for alpha_bar in (1.0, 0.7, 0.0):
        back = reconstruct(field, drawn, alpha_bar, generator)
        assert abs(back.numpy() @ outside).max() < ROUNDING


def dense(field, alpha_bar):
    """Gain and covariance of the posterior by conditioning the joint Gaussian of x_0 and x_t."""
    prior = COVARIANCE
    noisy = alpha_bar * prior + (1 - alpha_bar) * np.eye(len(prior))
    gain = np.sqrt(alpha_bar) * prior @ np.linalg.inv(noisy)
    return gain, prior - np.sqrt(alpha_bar) * gain @ prior


@pytest.mark.parametrize("alpha_bar", [0.0, 0.3, 0.9])
def test_change_covariance_against_dense_conditioning(field, alpha_bar):
    gain, posterior = dense(field, alpha_bar)
    expected = posterior + (1 - alpha_bar) * gain @ gain.T
    ours = field.change_covariance(alpha_bar)
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    # with the scatter of the conditional means over x_0 it is the covariance of the data again
    means = alpha_bar * gain @ COVARIANCE @ gain.T
    np.testing.assert_allclose(ours + means, COVARIANCE, atol=1e-12)


def test_reconstructions_have_the_moments_of_the_theory(field):
    generator, alpha_bar = derived_generator(1), 0.6
    x_0 = sample(field, 1, generator)
    back = reconstruct(field, x_0.expand(200_000, 6), alpha_bar, generator).numpy()
    gain, _ = dense(field, alpha_bar)
    expected = np.arange(6) + np.sqrt(alpha_bar) * (x_0.numpy() - np.arange(6)) @ gain.T
    scale = np.sqrt(np.diag(COVARIANCE))
    assert (abs(back.mean(0) - expected[0]) < 0.02 * scale).all()
    error = abs(np.cov(back.T) - field.change_covariance(alpha_bar))
    assert (error < 0.02 * np.outer(scale, scale)).all()


def test_ends_of_the_noise(field):
    generator = derived_generator(2)
    x_0 = sample(field, 3, generator)
    back = reconstruct(field, x_0, 1.0, generator)
    np.testing.assert_allclose(back, x_0, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(field.change_covariance(0.0), COVARIANCE, atol=1e-12)
    assert np.cov(sample(field, 50_000, generator).T) == pytest.approx(COVARIANCE, abs=0.2)


def test_power_law_field_is_isotropic_and_has_its_variance():
    covariance = power_law_covariance(8, 2.0, 3.0)
    np.testing.assert_allclose(np.diag(covariance), 3)
    np.testing.assert_allclose(covariance, covariance.T)
    assert covariance[0, 1] == pytest.approx(covariance[0, 8]) == pytest.approx(covariance[9, 10])
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    np.testing.assert_allclose(power_law_covariance(4, 0.0), np.eye(16), atol=0.02)  # white


def test_spectral_exponent_of_fields_with_known_spectrum():
    rng, side = np.random.default_rng(0), 32
    frequency = np.fft.fftfreq(side)
    amplitude = np.hypot(frequency[:, None], frequency)
    amplitude[0, 0] = np.inf
    white = np.fft.fft2(rng.normal(size=(400, side, side)))
    images = np.fft.ifft2(white * amplitude**-1.25).real + rng.normal(size=(side, side))
    assert spectral_exponent(images) == pytest.approx(2.5, abs=0.05)


def test_length_of_the_control_grows_with_the_noise():
    """Without hierarchy the change decorrelates ever later: chi rises and never turns back."""
    field = GaussianField(np.zeros(144), power_law_covariance(12, 2.3))
    chi = []
    for alpha_bar in (0.999, 0.99, 0.9, 0.5, 0.1, 0.01, 0.0):
        change = field.change_covariance(alpha_bar)
        chi.append(change.sum() / np.trace(change))
    assert (np.diff(chi) > 0).all()


@pytest.mark.parametrize("exponent", [2.0, 3.0])
def test_two_power_law_classes_are_told_apart_by_the_wave_between_them(exponent):
    """logit P(1 | x_t) = 2 sqrt(abar) w (abar S + 1 - abar)^-1 x_t, for means -w and w."""
    law, alpha_bar = power_law_classes(exponent, side=16, r=0.2), 0.3
    wave = law.means[1].flatten().numpy()
    assert law.means.shape == (2, 1, 16, 16) and np.allclose(law.means[0], -law.means[1])
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.2)
    cosines = dct(dct(wave.reshape(16, 16), axis=0), axis=1)
    assert np.argwhere(abs(cosines) > 1e-9).tolist() == [[4, 4]]
    x_t = torch.randn(20, 1, 16, 16, generator=derived_generator(1)).double()
    noisy = alpha_bar * power_law_covariance(16, exponent) + (1 - alpha_bar) * np.eye(256)
    logit = 2 * alpha_bar**0.5 * x_t.flatten(1).numpy() @ np.linalg.solve(noisy, wave)
    found = law.class_posterior(x_t, alpha_bar)[:, 1]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit)), rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GaussianField(np.zeros(3), np.eye(2)), r"\(1, 3, 3\), got \(1, 2, 2\)"),
        (lambda: GaussianField(np.zeros(2), np.array([[1, 2], [0, 1]])), "symmetric.*up to 2"),
        (lambda: GaussianField(np.zeros(2), np.eye(2)).change_covariance(1.2), "alpha_bar.*1.2"),
        (lambda: power_law_covariance(1, 2.0), "side must be at least 2, got 1"),
        (lambda: power_law_covariance(4, -1.0), "exponent must be at least 0, got -1.0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
