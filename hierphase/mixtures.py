"""Data that have classes but no hierarchy: a mixture of two Gaussians, denoised exactly."""

from dataclasses import dataclass

import torch

from hierphase.checks import positive_integer
from hierphase.seeds import derived_generator

N_TEST = 2000
_TEST_SEED = 0


@dataclass(frozen=True)
class TwoModeMixture:
    """x_0 = y mu + z with y = +1 or -1, mu = (r, ..., r) and z standard normal in d dimensions.

    The direction of mu does not matter, as z has none.

    Args:
        d: number of dimensions.
        r: size of mu in each dimension, positive; the modes are 2 r sqrt(d) standard deviations
            apart.

    Raises:
        ValueError: d is not a positive integer, or r not positive.
    """

    d: int = 1024
    r: float = 0.25

    def __post_init__(self):
        positive_integer("d", self.d)
        if not self.r > 0:
            raise ValueError(f"r must be positive, got {self.r}")

    def batch(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Fresh data (n, 1, d), and classes (n,): 1 where y = +1, else 0."""
        labels = torch.randint(2, (n,), generator=generator)
        noise = torch.randn(n, 1, self.d, generator=generator)
        return noise + self.r * (2 * labels[:, None, None] - 1), labels

    @property
    def test_images(self) -> torch.Tensor:
        """(N_TEST, 1, d) data that no training sees."""
        return self.batch(N_TEST, derived_generator(_TEST_SEED))[0]

    @property
    def test_labels(self) -> torch.Tensor:
        """(N_TEST,) their classes."""
        return self.batch(N_TEST, derived_generator(_TEST_SEED))[1]

    def class_probability(self, x_t: torch.Tensor, alpha_bar: float) -> torch.Tensor:
        """P(y = +1 | x_t) = 1/(1 + exp(-2 sqrt(abar) r sum_i x_{t,i})), (n,).

        The variance of x_t within a mode is abar + (1 - abar) = 1.

        Args:
            x_t: (n, 1, d).
            alpha_bar: abar_t, in [0, 1].
        """
        return torch.sigmoid(2 * alpha_bar**0.5 * self.r * x_t.sum((1, 2)))

    def denoised(
        self, x_t: torch.Tensor, alpha_bar: float, generator: torch.Generator
    ) -> torch.Tensor:
        """One draw from p(x_0 | x_t): the mode, then the Gaussian within it.

        Given y, x_0 is normal with mean y mu + sqrt(abar) (x_t - sqrt(abar) y mu) and variance
        1 - abar.

        Args:
            x_t: (n, 1, d), sqrt(abar) x_0 + sqrt(1 - abar) times standard normal noise.
            alpha_bar: abar_t, in [0, 1].
            generator: source of the draw.
        """
        uniform = torch.rand(len(x_t), generator=generator)
        y = 2.0 * (uniform < self.class_probability(x_t, alpha_bar)) - 1
        mean = y[:, None, None] * self.r
        noise = torch.randn(x_t.shape, generator=generator)
        signal = alpha_bar**0.5
        return mean + signal * (x_t - signal * mean) + (1 - alpha_bar) ** 0.5 * noise
