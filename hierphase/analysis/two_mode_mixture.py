"""Data that have classes but no hierarchy: a mixture of two Gaussians, denoised exactly."""

from dataclasses import dataclass
from functools import cached_property

import scipy.fft
import torch

from hierphase.checks import positive_integer
from hierphase.seeds import derived_generator

N_TEST = 2000
_TEST_SEED = 0


@dataclass(frozen=True)
class TwoModeMixture:
    """x_0 = y mu + z in d dimensions, with y = +1 or -1 and z normal of a power-law spectrum.

    The principal components of z are the cosines of the discrete cosine transform (DCT-II), from
    the mean over all positions (k = 1) to the finest (k = d). Their variances fall as k^-exponent
    and are 1 on average. mu lies along one of them, and its size is r sqrt(d). By default z is
    white and mu = (r, ..., r); for white z the direction of mu does not matter, as z has none.

    Args:
        d: number of dimensions.
        r: root mean square of mu over the dimensions, positive; in white noise the modes are
            2 r sqrt(d) standard deviations apart.
        exponent: of the spectrum, at least 0.
        component: k of mu, 1 to d.

    Raises:
        ValueError: d or component is not a positive integer, component beyond d, r not positive, or
            a negative exponent.
    """

    d: int = 1024
    r: float = 0.25
    exponent: float = 0.0
    component: int = 1

    def __post_init__(self):
        positive_integer("d", self.d)
        if positive_integer("component", self.component) > self.d:
            raise ValueError(f"component must be at most d = {self.d}, got {self.component}")
        if not self.r > 0:
            raise ValueError(f"r must be positive, got {self.r}")
        if not self.exponent >= 0:
            raise ValueError(f"exponent must be at least 0, got {self.exponent}")

    @cached_property
    def variances(self) -> torch.Tensor:
        """(d,) variances of the principal components of z, 1 on average."""
        falling = torch.arange(1, self.d + 1) ** -float(self.exponent)
        return falling / falling.mean()

    @cached_property
    def mu(self) -> torch.Tensor:
        """(d,) the class mean."""
        return self.r * self.d**0.5 * _from_components(torch.eye(self.d)[self.component - 1])

    def batch(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Fresh data (n, 1, d), and classes (n,): 1 where y = +1, else 0."""
        labels = torch.randint(2, (n,), generator=generator)
        z = _filtered(torch.randn(n, 1, self.d, generator=generator), self.variances.sqrt())
        return z + self.mu * (2 * labels[:, None, None] - 1), labels

    @property
    def test_images(self) -> torch.Tensor:
        """(N_TEST, 1, d) data that no training sees."""
        return self.batch(N_TEST, derived_generator(_TEST_SEED))[0]

    @property
    def test_labels(self) -> torch.Tensor:
        """(N_TEST,) their classes."""
        return self.batch(N_TEST, derived_generator(_TEST_SEED))[1]

    def class_probability(self, x_t: torch.Tensor, alpha_bar: float) -> torch.Tensor:
        """P(y = +1 | x_t) = 1/(1 + exp(-2 sqrt(abar) mu.x_t / (abar lambda + 1 - abar))), (n,).

        lambda is the variance of z along mu; no other component of x_t tells the class.

        Args:
            x_t: (n, 1, d).
            alpha_bar: abar_t, in [0, 1].
        """
        variance = alpha_bar * self.variances[self.component - 1] + 1 - alpha_bar
        return torch.sigmoid(2 * alpha_bar**0.5 * (x_t @ self.mu)[:, 0] / variance)

    def denoised(
        self, x_t: torch.Tensor, alpha_bar: float, generator: torch.Generator
    ) -> torch.Tensor:
        """One draw from p(x_0 | x_t): the mode, then the Gaussian within it.

        Given y, the components of z are independent: that of variance lambda has the mean
        g (x_t - sqrt(abar) y mu), g = sqrt(abar) lambda / (abar lambda + 1 - abar), and the
        variance lambda (1 - abar) / (abar lambda + 1 - abar).

        Args:
            x_t: (n, 1, d), sqrt(abar) x_0 + sqrt(1 - abar) times standard normal noise.
            alpha_bar: abar_t, in [0, 1].
            generator: source of the draw.
        """
        uniform = torch.rand(len(x_t), generator=generator)
        y = 2.0 * (uniform < self.class_probability(x_t, alpha_bar)) - 1
        mean = y[:, None, None] * self.mu
        noise = torch.randn(x_t.shape, generator=generator)
        share = self.variances / (alpha_bar * self.variances + 1 - alpha_bar)
        signal = alpha_bar**0.5
        known = _filtered(x_t - signal * mean, signal * share)
        return mean + known + _filtered(noise, ((1 - alpha_bar) * share).sqrt())


def _from_components(components: torch.Tensor) -> torch.Tensor:
    """(..., d) data whose components along the cosines are given."""
    return torch.from_numpy(scipy.fft.idct(components.numpy(), norm="ortho"))


def _filtered(x: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """(..., d) data with each component along the cosines multiplied by its gain (d,)."""
    return _from_components(torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho")) * gains)
