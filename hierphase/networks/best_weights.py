"""Early stopping: the averaged weights of the moment at which held-out data were denoised best."""

from collections.abc import Callable

import torch
from diffusers.training_utils import EMAModel
from torch import nn


class BestWeights:
    """The averaged weights with the lowest held-out loss among those that were offered.

    Args:
        loss: held-out loss of a network; must give the same number for the same weights.

    Attributes:
        lowest: the lowest loss so far; infinite before the first offer.
        weights: the weights that had it, in the order of ``model.parameters()``.
    """

    def __init__(self, loss: Callable[[nn.Module], float]):
        self._loss = loss
        self.lowest = float("inf")
        self.weights: list[torch.Tensor] = []

    def offer(self, model: nn.Module, ema: EMAModel) -> None:
        """Remember the averages that ``ema`` holds of ``model``, if none were better."""
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
        with torch.no_grad():
            loss = self._loss(model)
        ema.restore(model.parameters())
        if loss < self.lowest:
            self.lowest, self.weights = loss, [average.clone() for average in ema.shadow_params]

    def state_dict(self) -> dict:
        """What a checkpoint has to hold."""
        return {"lowest": self.lowest, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.lowest, self.weights = state["lowest"], state["weights"]

    def copy_to(self, model: nn.Module) -> None:
        """Give ``model`` the best weights."""
        with torch.no_grad():
            for parameter, best in zip(model.parameters(), self.weights, strict=True):
                parameter.copy_(best)
