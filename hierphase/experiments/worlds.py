"""The worlds of the one experiment: where x_0 comes from, and how it is denoised back.

A new world is a class with the two methods of :class:`World`. Worlds that are solved exactly draw
x̂0(t) from the posterior; of images a trained network and a sampler make it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from diffusers import DDPMScheduler

from hierphase.analysis.two_mode_mixture import TwoModeMixture
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess, GaussianProcess, ddpm_scheduler, encode
from hierphase.rhm.dataset import TreeData
from hierphase.seeds import derived_generator


class Denoised(NamedTuple):
    """What the way back from each noise level gives.

    Attributes:
        samples: (noise, n, ...) x̂0(t).
        kept: (noise, n, level) how much is kept of x_0 on each level of the world, exactly.
        classes: (noise, n) that the samples were drawn from.
    """

    samples: torch.Tensor
    kept: torch.Tensor | None = None
    classes: torch.Tensor | None = None


class World(Protocol):
    """Data with a forward-backward experiment."""

    def starts(self, rows: range) -> list[torch.Tensor]:
        """Data ``rows``: x_0 (n, channels, ...), and what else is known of them, a row a datum."""

    def denoised(
        self,
        starts: list[torch.Tensor],
        noises: Sequence[float],
        generators: list[torch.Generator],
    ) -> Denoised:
        """x̂0 from each noise level; each repetition of a level is another draw.

        Args:
            starts: as :meth:`starts` gives them.
            noises: levels, in the measure of the world: epsilon, or times 0 to T.
            generators: one for each datum, or a single one for all.
        """


@dataclass(frozen=True)
class TreeWorld:
    """Data of a Random Hierarchy Model, or their leaves shuffled between data, solved exactly.

    Attributes:
        data: of the tree.
        process: "epsilon", or "gaussian", whose levels are times 0 to T - 1.
        seed: of the starting data.
    """

    data: TreeData
    process: str
    seed: int

    @property
    def levels(self) -> list[int]:
        """Of the tree, those for which it is known what is kept."""
        return [0] if self.data.shuffled else list(range(self.data.rhm.L + 1))

    @cached_property
    def _bp(self) -> BeliefPropagation:
        return BeliefPropagation(self.data.rhm)

    def starts(self, rows):
        """As :meth:`World.starts`: x_0 and all levels of the tree."""
        levels = self.data.sample(rows.stop, self.seed)
        return [x[rows.start :] for x in (encode(levels[0], self.data.rhm.v), *levels)]

    def denoised(self, starts, noises, generators):
        """As :meth:`World.denoised`."""
        denoise = self._shuffled if self.data.shuffled else self._tree
        (generator,), (x_0, *levels) = generators, starts
        draws = [denoise(x_0, levels, noise, generator) for noise in noises]
        return Denoised(*(torch.stack(parts) for parts in zip(*draws, strict=True)))

    def _beliefs(self, leaves, noise, generator) -> tuple[torch.Tensor, bool]:
        """Of each symbol at each leaf; and whether they are logarithms."""
        v = self.data.rhm.v
        if self.process == "epsilon":
            return EpsilonProcess(v).beliefs(leaves, noise), False
        gaussian = GaussianProcess(ddpm_scheduler(), v)
        return gaussian.log_beliefs(gaussian.corrupt(leaves, noise, generator), noise), True

    def _tree(self, x_0, levels, noise, generator):
        beliefs, log = self._beliefs(levels[0], noise, generator)
        posterior = self._bp(beliefs, log=log)
        leaves = posterior.sample(1, generator)[0][0]
        return encode(leaves, x_0.shape[1]), posterior.probability_of(levels)

    def _shuffled(self, x_0, levels, noise, generator):
        """Leaves are independent: only their shares at each position go with the beliefs."""
        rhm = self.data.rhm
        shares = self._bp(torch.ones(1, rhm.d, rhm.v)).marginals[0]
        beliefs, log = self._beliefs(levels[0], noise, generator)
        posterior = shares * (beliefs.softmax(-1) if log else beliefs)
        posterior = posterior / posterior.sum(-1, keepdim=True)
        leaves = torch.multinomial(posterior.flatten(0, 1), 1, generator=generator)
        kept = (posterior * x_0.mT).sum(-1).mean(1, keepdim=True)
        return encode(leaves.view(x_0.shape[0], -1), x_0.shape[1]), kept


@dataclass(frozen=True)
class TwoModeWorld:
    """Data of a mixture of two Gaussians; level 1 is the mode, level 0 the numbers themselves.

    Of these, which are not kept exactly, it is the cosine of x̂0 and x_0 that counts.

    Attributes:
        data: the mixture.
        seed: of the starting data.
    """

    data: TwoModeMixture
    seed: int
    levels = (0, 1)

    def starts(self, rows):
        """As :meth:`World.starts`: x_0 and labels."""
        batch = self.data.batch(rows.stop, derived_generator(self.seed))
        return [x[rows.start :] for x in batch]

    def denoised(self, starts, noises, generators):
        """As :meth:`World.denoised`."""
        (generator,), (x_0, labels), draws = generators, starts, []
        for alpha_bar in ddpm_scheduler().alphas_cumprod[list(noises)].tolist():
            z = torch.randn(x_0.shape, generator=generator)
            x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * z
            up = self.data.class_probability(x_t, alpha_bar)
            sample = self.data.denoised(x_t, alpha_bar, generator)
            cosine = torch.cosine_similarity(x_0, sample, -1)[:, 0]
            kept = torch.stack([cosine, torch.where(labels == 1, up, 1 - up)], 1)
            draws.append((sample, kept))
        return Denoised(*(torch.stack(parts) for parts in zip(*draws, strict=True)))


@dataclass(frozen=True)
class ImageWorld:
    """Labelled images, and what denoises them.

    Attributes:
        class_names: of the classes 0, 1, ...
        labels: (n,) class of each image; image i is the (i // n_classes)-th of its class.
        load: gives x_0 (n, channels, height, width) of a tensor of rows.
        denoise: gives x̂0 from (x_0, labels, times 0 to T, one generator for each image).
        scheduler: of the noise.
        held_out: all held-out images of a data set; None for others.
    """

    class_names: Sequence[str]
    labels: torch.Tensor
    load: Callable[[torch.Tensor], torch.Tensor]
    denoise: Callable[..., Denoised]
    scheduler: DDPMScheduler
    held_out: torch.Tensor | None = None

    def starts(self, rows):
        """As :meth:`World.starts`: x_0 and labels."""
        rows = torch.tensor(rows)
        return [self.load(rows), self.labels[rows]]

    def denoised(self, starts, noises, generators):
        """As :meth:`World.denoised`."""
        return self.denoise(*starts, noises, generators)


def alpha_bars(scheduler: DDPMScheduler) -> torch.Tensor:
    """(T + 1,) abar of the times 0 (no noise at all) to T (nothing but noise)."""
    return torch.cat([torch.ones(1), scheduler.alphas_cumprod[1:], torch.zeros(1)])
