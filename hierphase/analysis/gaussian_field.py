"""A control without hierarchy: Gaussian random fields, noised and denoised exactly.

Such data are fixed by a mean and a covariance. In the basis of its eigenvectors every mode is an
independent Gaussian variable, and so are its posterior and x̂0(t).
"""

from dataclasses import dataclass, field

import numpy as np

from hierphase.analysis.finite_size_scaling import power_law
from hierphase.checks import fraction, positive_integer


@dataclass(frozen=True)
class GaussianField:
    """A Gaussian random field and its ideal denoiser.

    Args:
        mean: (p,), the mean of each of p pixels.
        covariance: (p, p), symmetric; eigenvalues that are zero up to rounding count as zero.

    Raises:
        ValueError: shapes that do not fit, or a covariance that is not symmetric.
    """

    mean: np.ndarray
    covariance: np.ndarray
    _variances: np.ndarray = field(init=False, repr=False)
    _modes: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        mean, covariance = (np.asarray(x, dtype=float) for x in (self.mean, self.covariance))
        if mean.ndim != 1 or covariance.shape != mean.shape * 2:
            raise ValueError(
                f"need a mean (p,) and a covariance (p, p), got {mean.shape} and {covariance.shape}"
            )
        if not np.allclose(covariance, covariance.T):
            raise ValueError(
                f"covariance must be symmetric, got differences up to "
                f"{abs(covariance - covariance.T).max():g}"
            )
        variances, modes = np.linalg.eigh(covariance)
        rounding = abs(variances).max() * len(mean) * np.finfo(float).eps
        object.__setattr__(self, "_variances", np.where(variances > rounding, variances, 0))
        object.__setattr__(self, "_modes", modes)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n fields, (n, p)."""
        n = positive_integer("n", n)
        drawn = rng.standard_normal((n, len(self.mean)))
        return self.mean + (drawn * np.sqrt(self._variances)) @ self._modes.T

    def reconstruct(self, x0: np.ndarray, alpha_bar: float, rng: np.random.Generator) -> np.ndarray:
        """Noise fields and draw x̂0(t) from the exact posterior, p(x_0 | x_t).

        Args:
            x0: (..., p); noise and posterior are drawn anew for each.
            alpha_bar: of the time t, from 1 (no noise) to 0 (pure noise).
            rng: of both draws.

        Returns:
            x̂0(t), of the shape of ``x0``.

        Raises:
            ValueError: alpha_bar outside [0, 1].
        """
        gain, variance = self._posterior(alpha_bar)
        centred = (x0 - self.mean) @ self._modes
        noise = rng.standard_normal((2, *x0.shape))
        noisy = np.sqrt(alpha_bar) * centred + np.sqrt(1 - alpha_bar) * noise[0]
        return self.mean + (gain * noisy + np.sqrt(variance) * noise[1]) @ self._modes.T

    def change_covariance(self, alpha_bar: float) -> np.ndarray:
        """Covariance (p, p) of x̂0(t) - x_0 over trajectories; the same for every x_0."""
        gain, variance = self._posterior(alpha_bar)
        return (self._modes * (variance + gain**2 * (1 - alpha_bar))) @ self._modes.T

    def _posterior(self, alpha_bar):
        """Of each mode: E[x_0 | x_t] = gain x_t, and the variance of x_0 given x_t."""
        alpha_bar = fraction("alpha_bar", alpha_bar)
        total = alpha_bar * self._variances + (1 - alpha_bar)
        scale = np.divide(self._variances, total, out=np.zeros_like(total), where=total > 0)
        return scale * np.sqrt(alpha_bar), scale * (1 - alpha_bar)


def power_law_covariance(side: int, exponent: float, variance: float = 1.0) -> np.ndarray:
    """Covariance of a window of an isotropic field with power spectrum ``|k|^-exponent``.

    The field lives on a torus of twice the side, so that no two pixels of the window are neighbours
    around it; its mean mode is left out.

    Args:
        side: of the square window, in pixels.
        exponent: of the spectrum, at least 0.
        variance: of each pixel.

    Returns:
        (side^2, side^2).

    Raises:
        ValueError: side or exponent is out of range.
    """
    side = positive_integer("side", side, minimum=2)
    if not exponent >= 0:
        raise ValueError(f"exponent must be at least 0, got {exponent}")
    frequency = np.fft.fftfreq(2 * side)
    squared = frequency[:, None] ** 2 + frequency**2
    squared[0, 0] = np.inf
    correlation = np.fft.ifft2(squared ** (-exponent / 2)).real
    place = np.stack(np.indices((side, side)), axis=-1).reshape(-1, 2)
    apart = abs(place[:, None] - place)
    return variance * (correlation / correlation[0, 0])[apart[..., 0], apart[..., 1]]


def spectral_exponent(images: np.ndarray) -> float:
    """Exponent g of the power spectrum ``|k|^-g`` of images around their mean image.

    Least squares on logarithms, over rings of whole ``|k|`` from 1 to half the side (in cycles a
    side); ``|k|`` and the power, averaged over images, enter with their geometric mean over the
    ring.

    Args:
        images: (n, side, side).

    Raises:
        ValueError: another shape.
    """
    images = np.asarray(images, dtype=float)
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images must be of shape (n, side, side), got {images.shape}")
    side = images.shape[1]
    power = (abs(np.fft.fft2(images - images.mean(axis=0))) ** 2).mean(axis=0)
    frequency = np.fft.fftfreq(side, 1 / side)
    length = np.hypot(frequency[:, None], frequency)
    ring = np.rint(length)
    rings = [ring == k for k in range(1, side // 2 + 1)]

    def mean(values):
        return [np.exp(np.log(values[inside]).mean()) for inside in rings]

    return -float(power_law(mean(length), mean(power)))
