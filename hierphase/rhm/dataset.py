"""Data of the Random Hierarchy Model for the training of networks."""

from dataclasses import dataclass
from functools import cached_property

import torch

from hierphase.rhm.corruption import encode
from hierphase.rhm.model import RandomHierarchyModel

N_TEST = 10_000
# Seeds of RandomHierarchyModel.sample. Fresh batches take theirs from beyond the range of these.
_TRAIN_SEED, _TEST_SEED, _FRESH_SEEDS = 0, 1, 2**32


@dataclass(frozen=True)
class TreeData:
    """One-hot encoded leaves and classes: a training set of P examples, or fresh ones without end.

    Args:
        rhm: the model.
        P: size of the training set, its first P samples; None draws every batch anew.
        shuffled: take the leaf at every position from another datum, drawn independently for each
            position. Each leaf alone stays as it was; no hierarchy, and no class, is left.
    """

    rhm: RandomHierarchyModel
    P: int | None = None
    shuffled: bool = False

    @cached_property
    def train_levels(self) -> list[torch.Tensor]:
        """The P training data with all latents, as :meth:`sample` gives them."""
        return self.sample(self.P, _TRAIN_SEED)

    @cached_property
    def test_levels(self) -> list[torch.Tensor]:
        """Held-out data with all latents, see :meth:`sample`."""
        return self.sample(N_TEST, _TEST_SEED)

    @property
    def test_images(self) -> torch.Tensor:
        """(N_TEST, v, d) encoded leaves of :attr:`test_levels`."""
        return encode(self.test_levels[0], self.rhm.v)

    @property
    def test_labels(self) -> torch.Tensor:
        """(N_TEST,) their classes."""
        return self.test_levels[-1][:, 0]

    def batch(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to n training data (n, v, d) and classes (n,).

        Args:
            n: how many.
            generator: decides which.
        """
        if self.P is None:
            seed = torch.randint(_FRESH_SEEDS, 2**62, (), generator=generator)
            levels = self.sample(n, int(seed))
        else:
            rows = torch.randperm(self.P, generator=generator)[:n]
            levels = [self.train_levels[0][rows], self.train_levels[-1][rows]]
        return encode(levels[0], self.rhm.v), levels[-1][:, 0]

    def sample(self, n: int, seed: int) -> list[torch.Tensor]:
        """Data with all latents.

        In the form of :meth:`hierphase.rhm.model.RandomHierarchyModel.sample`.

        Args:
            n: how many. Shuffled leaves depend on it.
            seed: of the draw; 0 is the training set, 1 the held-out data.
        """
        levels = self.rhm.sample(n, seed=seed)
        if self.shuffled:
            generator = torch.Generator().manual_seed(seed)
            order = torch.rand(n, self.rhm.d, generator=generator).argsort(0)
            levels[0] = levels[0].gather(0, order)
        return levels
