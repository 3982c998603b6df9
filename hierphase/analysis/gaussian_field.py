"""A control without hierarchy: Gaussian random fields, noised and denoised exactly.

Such data are fixed by a mean and a covariance.
"""

import numpy as np

from hierphase.analysis.finite_size_scaling import power_law
from hierphase.analysis.gaussian_mixture import GaussianMixture, noisy
from hierphase.checks import fraction, positive_integer


class GaussianField(GaussianMixture):
    """A Gaussian random field and its ideal denoiser: a mixture of one class.

    Args:
        mean: (...), the mean of each of p pixels.
        covariance: (p, p), as of a :class:`~hierphase.analysis.gaussian_mixture.GaussianMixture`.
    """

    def __init__(self, mean, covariance):
        super().__init__([mean], [covariance])

    def change_covariance(self, alpha_bar: float) -> np.ndarray:
        """Covariance (p, p) of x̂0(t) - x_0 over trajectories; the same for every x_0.

        Raises:
            ValueError: alpha_bar outside [0, 1].
        """
        alpha_bar = fraction("alpha_bar", alpha_bar)
        share = self.variances[0] / noisy(self.variances[0], alpha_bar)
        variance = share * (1 - alpha_bar) * (1 + alpha_bar * share)
        return (self.axes[0] * variance @ self.axes[0].T).numpy()


def power_law_covariance(side: int, exponent: float, variance: float = 1.0) -> np.ndarray:
    r"""Covariance of a window of an isotropic field of a power-law spectrum.

    The power falls with the wave vector k as :math:`\lvert k\rvert^{-g}`, g the exponent.

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
    if not 0 <= exponent < np.inf:
        raise ValueError(f"exponent must be at least 0, got {exponent}")
    frequency = np.fft.fftfreq(2 * side)
    squared = frequency[:, None] ** 2 + frequency**2
    squared[0, 0] = np.inf
    correlation = np.fft.ifft2(squared ** (-exponent / 2)).real
    place = np.stack(np.indices((side, side)), axis=-1).reshape(-1, 2)
    apart = abs(place[:, None] - place)
    return variance * (correlation / correlation[0, 0])[apart[..., 0], apart[..., 1]]


def power_law_classes(exponent: float, side: int = 32, r: float = 0.1) -> GaussianMixture:
    """Two classes of grey images: power-law fields of one covariance around plus and minus a wave.

    The wave is a cosine of side / 4 half periods along either axis: finer than what varies most
    within a class, coarser than what noise hides first.

    Args:
        exponent: of the spectrum, as of :func:`power_law_covariance`; pixels have variance 1.
        side: of the images, in pixels.
        r: root mean square of the wave over pixels.
    """
    along = np.cos(np.pi * (side // 4) * (np.arange(side) + 0.5) / side)
    mean = 2 * r * np.outer(along, along)
    return GaussianMixture([[-mean], [mean]], [power_law_covariance(side, exponent)])


def spectral_exponent(images: np.ndarray) -> float:
    r"""Exponent g of the power spectrum of images around their mean image.

    The power is fitted by :math:`\lvert k\rvert^{-g}`.

    Least squares on logarithms, over rings of whole ``|k|`` from 1 to half the side (in cycles a
    side); ``|k|`` and the power, averaged over images, enter with their geometric mean over the
    ring.

    Args:
        images: (n, side, side).
    """
    images = np.asarray(images, dtype=float)
    side = images.shape[1]
    power = (abs(np.fft.fft2(images - images.mean(axis=0))) ** 2).mean(axis=0)
    frequency = np.fft.fftfreq(side, 1 / side)
    length = np.hypot(frequency[:, None], frequency)
    rings = [np.rint(length) == k for k in range(1, side // 2 + 1)]

    def mean(values):
        return [np.exp(np.log(values[inside]).mean()) for inside in rings]

    return -float(power_law(mean(length), mean(power)))
