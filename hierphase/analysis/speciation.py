r"""At what noise a class should be lost: predictions from means and covariances, levels quoted.

Levels are :math:`\ln \mathrm{SNR} = \ln \bar\alpha / (1 - \bar\alpha)` of
:math:`x_t = \sqrt{\bar\alpha} x_0 + \sqrt{1 - \bar\alpha} z`.
"""

import numpy as np
import torch

from hierphase.checks import check_finite, check_shape

#: Data set -> t/T, and SNR there, at which two clones agree in class in about three of four cases,
#: read off the curves of Biroli et al. 2024 (arXiv 2402.18491): schedule like ours, two classes,
#: intensities in [0, 1].
PUBLISHED = {
    "MNIST": (0.445, 0.154), "CIFAR-10": (0.446, 0.152), "ImageNet 16": (0.351, 0.393),
    "ImageNet 32": (0.499, 0.087), "LSUN 64": (0.566, 0.040),
}  # fmt: skip


def largest_variance(images: torch.Tensor) -> float:
    """Largest eigenvalue of the covariance of images (n, ...), n > 1."""
    rows = images.flatten(1)
    check_finite("images", rows)
    covariance = torch.cov(rows.T, correction=0).view(rows.shape[1], -1)
    return torch.linalg.eigvalsh(covariance.double())[-1].item()


def pair_variances(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    r"""What :func:`largest_variance` is of two classes of which nothing but the means is kept.

    The covariance of two equally likely points :math:`\mu_a` and :math:`\mu_b` has one eigenvalue
    other than zero, :math:`\lVert\mu_a - \mu_b\rVert^2 / 4`.

    Args:
        images: (n, ...), some of each class.
        labels: (n,) classes 0 to C - 1.

    Returns:
        (C (C - 1) / 2,) float64, of all pairs.
    """
    classes = range(int(labels.max()) + 1)
    means = [images[labels == c].double().mean(dim=0).flatten() for c in classes]
    return torch.pdist(torch.stack(means)).square() / 4


def speciation_level(variance):
    r"""ln SNR at which a class is decided, :math:`\bar\alpha \Lambda = 1` (Biroli et al. 2024).

    There the signal along the direction of variance :math:`\Lambda` has come down to variance 1,
    that of all noise at the end. In their process :math:`t_S = \ln(\Lambda) / 2`.

    Args:
        variance: Lambda, a number or an array.

    Returns:
        :math:`-\ln(\Lambda - 1)`; inf where Lambda is 1 or less: no noise is little enough.

    Raises:
        ValueError: a negative variance or NaN.

    Example:
        >>> from hierphase.analysis.speciation import speciation_level
        >>> round(float(speciation_level(79.2)), 2)  # Fashion-MNIST
        -4.36
    """
    variance = np.asarray(variance, dtype=float)
    if not (variance >= 0).all():
        raise ValueError(f"variance must not be negative, got {variance.min():g}")
    with np.errstate(divide="ignore"):
        return -np.log(np.maximum(variance - 1, 0))


def rescaled_level(ln_snr, intensities: float, others: float = 2.0):
    r"""The level of the same experiment with images on another scale.

    An image c times as bright takes c times the noise to look the same: SNR, as variances of signal
    and noise are those of the coefficients, not of the pixels, is :math:`c^{-2}` times as large.

    Args:
        ln_snr: of images whose intensities span ``intensities`` (1 for [0, 1]).
        intensities: largest minus smallest intensity that can be.
        others: that of the scale to go to; ours is [-1, 1].

    Returns:
        ln SNR there, of the shape of ``ln_snr``.

    Raises:
        ValueError: a span that is not positive.
    """
    if not min(intensities, others) > 0:
        raise ValueError(f"spans of intensities must be positive, got {intensities} and {others}")
    return ln_snr + 2 * np.log(intensities / others)


def reversal_time(ln_snr, levels) -> np.ndarray:
    """t/T of levels, linear in ln SNR between the times of a schedule.

    Args:
        ln_snr: (...); infinite without noise or signal.
        levels: (T + 1,) ln SNR of the times 0 to T, falling.

    Returns:
        (...) in [0, 1].

    Raises:
        ValueError: levels of another shape.
    """
    check_shape("levels", levels, "n")
    given, known = (-np.clip(np.asarray(x), -99, 99) for x in (ln_snr, levels))
    return np.interp(given, known, np.arange(len(known))) / (len(known) - 1)
