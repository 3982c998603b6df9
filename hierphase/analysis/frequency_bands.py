"""What two images share at each spatial scale: similarity per frequency band."""

import torch
from torch import Tensor

from hierphase.checks import check_finite, positive_integer


def frequency_bands(images: Tensor, n_bands: int) -> Tensor:
    """Split images into bands from fine to coarse that add up to them (differences of Gaussians).

    Band b holds what is lost between blurring with sigma_b and sigma_(b+1), where sigma = 0, 1, 2,
    4, ... pixels; the last band is what remains after the strongest blur. Edges are mirrored.

    Args:
        images: (..., channels, height, width).
        n_bands: at least 1; the strongest blur, 2^(n_bands - 2) pixels, must be less than a quarter
            of the smaller side.

    Returns:
        (n_bands, ..., channels, height, width).

    Raises:
        ValueError: too many bands for the size of the images.
    """
    side = min(images.shape[-2:])
    n_bands = positive_integer(f"n_bands at side {side}", n_bands, 1, max_bands(side))
    blurred = torch.stack([images, *(_blurred(images, 2.0**b) for b in range(n_bands - 1))])
    return torch.cat([blurred[:-1] - blurred[1:], blurred[-1:]])


def max_bands(side: int) -> int:
    """The largest ``n_bands`` of :func:`frequency_bands` for images whose smaller side this is."""
    return (side // 4).bit_length() + 1


def band_similarity(x0: Tensor, samples: Tensor, mean_image: Tensor, n_bands: int) -> Tensor:
    """Cosine similarity of x_0 and x̂0(t) in each frequency band, without a network.

    Args:
        x0: (n, channels, height, width).
        samples: (n_times, n, channels, height, width), in the order of ``x0``.
        mean_image: (channels, height, width), taken off first: what all images of the data set
            share (a centred object, an empty border) is no similarity of two of them.
        n_bands: bands from fine to coarse.

    Returns:
        (n_bands, n_times, n), in [-1, 1].

    Raises:
        ValueError: ``samples`` are not made from ``x0`` by shape, NaN or infinity in either, or as
            :func:`frequency_bands`.
    """
    check_finite("x0", x0)
    check_finite("samples", samples, "n_times", *x0.shape)
    before = frequency_bands(x0 - mean_image, n_bands).flatten(2)
    after = [frequency_bands(images - mean_image, n_bands).flatten(2) for images in samples]
    return torch.stack([torch.cosine_similarity(before, bands, dim=2) for bands in after], dim=1)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, mirrored at the edges; (..., height, width) in and out."""
    radius = min(int(3 * sigma), min(images.shape[-2:]) - 1)
    x = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = (-x.square() / (2 * sigma**2)).exp()
    kernel = kernel / kernel.sum()
    flat = images.reshape(-1, 1, *images.shape[-2:])
    flat = torch.nn.functional.pad(flat, (radius,) * 4, mode="reflect")
    flat = torch.conv2d(flat, kernel.view(1, 1, 1, -1))
    return torch.conv2d(flat, kernel.view(1, 1, -1, 1)).reshape(images.shape)
