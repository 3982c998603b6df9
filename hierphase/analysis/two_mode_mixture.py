"""Data that have classes but no hierarchy: a mixture of two Gaussians, denoised exactly."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch

from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.checks import positive_integer
from hierphase.seeds import derived_generator

N_TEST = 2000
_TEST_SEED = 0


@dataclass(eq=False)
class TwoModeMixture(GaussianMixture):
    r"""Two Gaussians in d dimensions, :math:`x_0 = y \mu + z` with y = +1 or -1.

    The noise z is normal with a power-law spectrum. Its principal components are the cosines of the
    discrete cosine transform (DCT-II), from the mean over all positions (k = 1) to the finest
    (k = d). Their variances fall as :math:`k^{-g}`, g the exponent, and are 1 on average.
    :math:`\mu` lies along one of them, and its size is :math:`r \sqrt d`. By default z is white and
    :math:`\mu = (r, \dots, r)`; for white z the direction of :math:`\mu` does not matter, as z has
    none.

    Args:
        d: number of dimensions.
        r: root mean square of mu over the dimensions, positive; in white noise the modes are
            :math:`2 r \sqrt d` standard deviations apart.
        exponent: of the spectrum, at least 0.
        component: k of mu, 1 to d.

    Raises:
        ValueError: component out of range, r not positive, or a negative exponent.
    """

    d: int = 1024
    r: float = 0.25
    exponent: float = 0.0
    component: int = 1

    def __post_init__(self):
        positive_integer("component", self.component, maximum=self.d)
        if not 0 < self.r < torch.inf:
            raise ValueError(f"r must be positive, got {self.r}")
        if not 0 <= self.exponent < torch.inf:
            raise ValueError(f"exponent must be at least 0, got {self.exponent}")
        axes = torch.from_numpy(scipy.fft.dct(np.eye(self.d), norm="ortho"))[None]
        falling = torch.arange(1, self.d + 1, dtype=torch.float64) ** -float(self.exponent)
        mu = self.r * self.d**0.5 * axes[..., self.component - 1]
        covariance = falling[None] / falling.mean(), axes, torch.zeros(1)
        super().__init__(torch.stack([-mu, mu]), covariance)
        self.axes = axes  # in this order of the memory, on which the last bits depend

    def batch(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Fresh data (n, 1, d), and classes (n,): 1 where y = +1, else 0."""
        labels = torch.randint(2, (n,), generator=generator)
        return self.draw(labels, generator, torch.float32), labels

    @property
    def test_images(self) -> torch.Tensor:
        """(N_TEST, 1, d) data that no training sees."""
        return self.batch(N_TEST, derived_generator(_TEST_SEED))[0]

    @property
    def test_labels(self) -> torch.Tensor:
        """(N_TEST,) their classes."""
        return self.batch(N_TEST, derived_generator(_TEST_SEED))[1]

    def _draw_components(self, posterior, generator):
        return (torch.rand(len(posterior), generator=generator) < posterior[:, 1]).long()
