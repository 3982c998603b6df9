"""Four ways to corrupt the leaves, each with the belief that the corruption leaves behind.

``beliefs`` returns the likelihood of the observation as a function of each leaf's symbol, ready
for :class:`hierphase.rhm.belief_propagation.BeliefPropagation`.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch.nn.functional import one_hot

from hierphase.checks import check_finite, check_shape, fraction, positive_integer, within
from hierphase.rhm.model import check_symbols, check_tensor
from hierphase.seeds import drawn


def ddpm_scheduler(T: int = 1000) -> DDPMScheduler:
    """The paper's noise schedule: 1000 linear steps, beta from 1e-4 to 0.02 (Ho et al. 2020).

    Args:
        T: number of steps; others than 1000 have betas that add up to the same noise.
    """
    betas = {"beta_schedule": "linear", "beta_start": 0.1 / T, "beta_end": 20 / T}
    return DDPMScheduler(num_train_timesteps=T, timestep_spacing="linspace", **betas)


def encode(leaves: torch.Tensor, v: int) -> torch.Tensor:
    """One-hot code (n, v, d), float32, of leaves (n, d); of -1 for v, of as many as they show."""
    return one_hot(leaves.long(), v).mT.float()


@dataclass(frozen=True)
class EpsilonProcess:
    """Weakens the knowledge of every leaf without drawing noise.

    Args:
        v: number of symbols, at least 2.

    Example:
        >>> import torch
        >>> from hierphase import EpsilonProcess
        >>> EpsilonProcess(v=4).beliefs(torch.tensor([[2, 0]]), epsilon=0.4)
        tensor([[[0.1000, 0.1000, 0.7000, 0.1000],
                 [0.7000, 0.1000, 0.1000, 0.1000]]])
    """

    v: int

    def __post_init__(self):
        positive_integer("v", self.v, minimum=2)

    def beliefs(self, leaves: torch.Tensor, epsilon: float) -> torch.Tensor:
        r"""Belief :math:`1 - \epsilon + \epsilon/v` in the true symbol, else :math:`\epsilon/v`.

        Args:
            leaves: (n, d) integer symbols.
            epsilon: from 0 (leaves known) to 1 (nothing known).

        Returns:
            (n, d, v) float32.

        Raises:
            ValueError: epsilon not a number in [0, 1], or leaves of wrong shape, type or range.
        """
        check_symbols("leaves", leaves, self.v, "n d")
        epsilon = fraction("epsilon", epsilon)
        return one_hot(leaves.long(), self.v).float() * (1 - epsilon) + epsilon / self.v


@dataclass(frozen=True)
class GaussianProcess:
    r"""The forward process of a diffusion model, on one-hot encoded leaves.

    .. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, z

    with :math:`\bar\alpha_t` = ``scheduler.alphas_cumprod[t]`` and z standard normal.

    Args:
        scheduler: a diffusers scheduler with ``alphas_cumprod``, e.g. DDPMScheduler.
        v: number of symbols; None takes the largest symbol seen plus one, as
            :func:`torch.nn.functional.one_hot` does. Say it wherever a symbol could be absent.

    Example:
        >>> import torch
        >>> from hierphase import GaussianProcess
        >>> from hierphase.rhm.corruption import ddpm_scheduler
        >>> process = GaussianProcess(ddpm_scheduler(), v=4)
        >>> x_t = process.corrupt(torch.tensor([[2, 0]]), t=300)  # two leaves
        >>> x_t.shape  # one-hot and noisy: (n, v, d)
        torch.Size([1, 4, 2])
        >>> process.beliefs(x_t, t=300).shape  # for BeliefPropagation
        torch.Size([1, 2, 4])
    """

    scheduler: SchedulerMixin
    v: int | None = None

    def __post_init__(self):
        if not hasattr(self.scheduler, "alphas_cumprod"):
            raise ValueError(f"scheduler must have alphas_cumprod, got {type(self.scheduler)}")
        if self.v is not None:
            positive_integer("v", self.v, minimum=2)

    def alpha_bar(self, t) -> torch.Tensor:
        r""":math:`\bar\alpha_t` as float64; t an integer or an integer tensor, 0..T-1.

        Raises:
            ValueError: t is not an integer in that range.
        """
        t = within("t", t, 0, len(self.scheduler.alphas_cumprod) - 1, integer=True)
        return self.scheduler.alphas_cumprod.to(t.device)[t].double()

    def snr(self, t) -> torch.Tensor:
        r"""Signal-to-noise ratio :math:`\bar\alpha_t / (1 - \bar\alpha_t)` of :meth:`alpha_bar`."""
        alpha_bar = self.alpha_bar(t)
        return alpha_bar / (1 - alpha_bar)

    def corrupt(self, leaves: torch.Tensor, t, generator=None) -> torch.Tensor:
        """Noise the one-hot code of the leaves up to time t.

        Args:
            leaves: (n, d) integer symbols.
            t: time index 0..T-1: an integer, or an integer tensor (n,).
            generator: one generator, or a list of n, one a sample. None draws a fresh seed.

        Returns:
            x_t, (n, v, d) float32.

        Raises:
            ValueError: t or leaves out of range, or a list of other than n generators.
        """
        check_symbols("leaves", leaves, self.v or torch.inf, "n d")
        alpha_bar = _per_sample(self.alpha_bar(t), len(leaves)).to(leaves.device)
        x_0 = encode(leaves, self.v or -1)
        noise = drawn(torch.randn, x_0.shape, generator).to(x_0.device)
        return alpha_bar.sqrt().float() * x_0 + (1 - alpha_bar).sqrt().float() * noise

    def log_beliefs(self, x_t: torch.Tensor, t) -> torch.Tensor:
        r"""Log-likelihood of each symbol up to a constant.

        .. math:: \frac{\sqrt{\bar\alpha_t}}{1 - \bar\alpha_t}\, x_t

        For ``BeliefPropagation(...)(..., log=True)``: at low noise the likelihoods themselves are
        beyond the range of floating-point numbers.

        Args:
            x_t: (n, v, d), the noisy code.
            t: time index, an integer or an integer tensor (n,).

        Returns:
            (n, d, v), in the dtype of ``x_t``.

        Raises:
            ValueError: wrong shape or type, NaN or infinity, or t out of range.
        """
        check_tensor("x_t", x_t, "float32 or float64", "n", self.v or "v", "d")
        check_finite("x_t", x_t)
        alpha_bar = _per_sample(self.alpha_bar(t), len(x_t)).to(x_t.device)
        return (x_t * (alpha_bar.sqrt() / (1 - alpha_bar)).to(x_t.dtype)).mT

    def beliefs(self, x_t: torch.Tensor, t) -> torch.Tensor:
        """Softmax over the symbols of :meth:`log_beliefs`: (n, d, v)."""
        return self.log_beliefs(x_t, t).softmax(-1)

    def noise(self, x_t: torch.Tensor, x_0: torch.Tensor, t) -> torch.Tensor:
        r"""The noise that takes x_0 to x_t; of E[x_0 | x_t], the noise that is best predicted.

        .. math:: z = \frac{x_t - \sqrt{\bar\alpha_t}\, x_0}{\sqrt{1 - \bar\alpha_t}}

        Args:
            x_t: (n, v, d), the noisy code.
            x_0: (n, v, d), the code, or its mean.
            t: time index, an integer or an integer tensor (n,).

        Returns:
            z, in the dtype of ``x_t``.
        """
        alpha_bar = _per_sample(self.alpha_bar(t), len(x_t)).to(x_t.device)
        return (x_t - alpha_bar.sqrt().to(x_t.dtype) * x_0) / (1 - alpha_bar).sqrt().to(x_t.dtype)


@dataclass(frozen=True)
class MaskingProcess:
    """Erases each leaf with probability t/T (absorbing-state diffusion).

    Args:
        v: number of symbols, at least 2. An erased leaf holds the symbol v.
        T: time at which every leaf is erased.

    Example:
        >>> import torch
        >>> from hierphase import MaskingProcess
        >>> process = MaskingProcess(v=4, T=10)
        >>> leaves = torch.tensor([[2, 0, 1, 3]])
        >>> generator = torch.Generator().manual_seed(1)
        >>> x_t = process.corrupt(leaves, t=5, generator=generator)
        >>> x_t  # the symbol 4 stands where a leaf was erased
        tensor([[2, 4, 4, 3]])
        >>> process.beliefs(x_t)[0, :2]
        tensor([[0., 0., 1., 0.],
                [1., 1., 1., 1.]])
    """

    v: int
    T: int = 1000

    def __post_init__(self):
        positive_integer("v", self.v, minimum=2)
        positive_integer("T", self.T)

    def corrupt(self, leaves: torch.Tensor, t, generator=None) -> torch.Tensor:
        """Erase each leaf independently with probability t/T.

        Args:
            leaves: (n, d) integer symbols.
            t: time from 0 to T: a number, or a tensor (n,).
            generator: one generator, or a list of n, one a sample. None draws a fresh seed.

        Returns:
            x_t, (n, d) LongTensor; v where erased.

        Raises:
            ValueError: t outside [0, T], leaves of wrong shape, type or range, or a list of other
                than n generators.
        """
        check_symbols("leaves", leaves, self.v, "n d")
        time = within("t", t, 0, self.T).double()
        erased = _per_sample(time / self.T, len(leaves))[..., 0].to(leaves.device)
        uniform = drawn(torch.rand, leaves.shape, generator).to(leaves.device)
        return torch.where(uniform < erased, self.v, leaves.long())

    def beliefs(self, x_t: torch.Tensor, t=None) -> torch.Tensor:
        """One for the symbol that is seen, one for every symbol where it was erased.

        Args:
            x_t: (n, d) integer symbols, v where erased.
            t: not needed, what is erased can be seen; taken so that processes are interchangeable.

        Returns:
            (n, d, v) float32.

        Raises:
            ValueError: wrong shape, type, or a symbol outside 0..v.
        """
        check_symbols("x_t", x_t, self.v + 1, "n d")
        seen = one_hot(x_t.long(), self.v + 1).float()
        return (seen + seen[..., -1:])[..., :-1]


@dataclass(frozen=True)
class UniformProcess(MaskingProcess):
    """Replaces each leaf with probability t/T by a symbol drawn at random, perhaps the same.

    Args:
        v: number of symbols, at least 2.
        T: time at which every leaf is replaced.

    Example:
        >>> import torch
        >>> from hierphase.rhm.corruption import UniformProcess
        >>> process = UniformProcess(v=4, T=10)
        >>> x_t = process.corrupt(torch.tensor([[2, 0, 1, 3]]), t=4)  # four leaves
        >>> process.beliefs(x_t, t=4).sort().values[0, 0]  # most in the symbol that is seen
        tensor([0.1000, 0.1000, 0.1000, 0.7000])
    """

    def corrupt(self, leaves: torch.Tensor, t, generator=None) -> torch.Tensor:
        """Replace each leaf independently; arguments and errors as of :class:`MaskingProcess`."""
        kept = super().corrupt(leaves, t, generator)
        symbols = drawn(torch.rand, leaves.shape, generator, dtype=torch.float64) * self.v
        return torch.where(kept == self.v, symbols.long().to(kept.device), kept)

    def beliefs(self, x_t: torch.Tensor, t) -> torch.Tensor:
        """Belief 1 - u + u/v in the symbol that is seen, else u/v, with u = t/T.

        Args:
            x_t: (n, d) integer symbols.
            t: time from 0 to T: a number, or a tensor (n,).

        Returns:
            (n, d, v) float32.

        Raises:
            ValueError: wrong shape, type, a symbol out of range, or t outside [0, T].
        """
        check_symbols("x_t", x_t, self.v, "n d")
        u = _per_sample(within("t", t, 0, self.T).double() / self.T, len(x_t)).to(x_t.device)
        return (one_hot(x_t.long(), self.v) * (1 - u) + u / self.v).float()


#: The kinds of noise by name.
NOISES = ("epsilon", "masking", "uniform", "Gaussian")


def log_likelihood(noise: str, leaves: torch.Tensor, v: int, t: float, generator, T: int = 1000):
    """Corrupt leaves, and say what is then known of each.

    Args:
        noise: one of :data:`NOISES`.
        leaves: (n, d) integer symbols.
        v: number of symbols.
        t: in (0, 1), the fraction t/T of a process, or epsilon.
        generator: as of the processes.
        T: steps of the Gaussian process, on the paper's schedule.

    Returns:
        (n, d, v) float64, the log-likelihood of each symbol, for
        ``BeliefPropagation(...)(..., log=True)``.
    """
    if noise == "epsilon":
        return math.log1p((1 - t) * v / t) * one_hot(leaves.long(), v).double()
    if noise == "Gaussian":
        process, step = GaussianProcess(ddpm_scheduler(T), v), min(round(t * T), T - 1)
        return process.log_beliefs(process.corrupt(leaves, step, generator).double(), step)
    process = {"masking": MaskingProcess, "uniform": UniformProcess}[noise](v, T=1)
    return process.beliefs(process.corrupt(leaves, t, generator), t).double().log()


def _per_sample(value: torch.Tensor, n: int) -> torch.Tensor:
    """A scalar or (n,) tensor, shaped to broadcast over (n, ., .)."""
    if value.ndim:
        check_shape("t, where it differs between samples,", value, n)
    return value.reshape(-1, 1, 1)
