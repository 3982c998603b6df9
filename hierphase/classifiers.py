"""Small convolutional classifiers whose stages can be probed by name."""

from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

GROUPS = 8


class ConvClassifier(ModelMixin, ConfigMixin):
    """A convolutional network of a few stages, each half the resolution of the one before.

    A stage is two 3x3 convolutions, each followed by group normalisation and GELU; the first
    convolution of every stage but the first has stride 2. The last map is averaged over space and
    mapped linearly to the class logits. The modules to probe are, from low to high level,
    ``stages.0``, ``stages.1``, ..., ``logits``. ``save_pretrained`` and ``from_pretrained`` are
    those of diffusers (a config and safetensors weights).

    Args:
        in_channels: channels of the images.
        n_classes: number of classes.
        channels: width of each stage; multiples of 8.

    Raises:
        ValueError: a width that is not a positive multiple of 8, no stage, or fewer than 2 classes.
    """

    @register_to_config
    def __init__(self, in_channels: int = 1, n_classes: int = 10, channels=(32, 64, 128)):
        super().__init__()
        if len(channels) == 0 or any(width <= 0 or width % GROUPS for width in channels):
            raise ValueError(
                f"channels must be positive multiples of {GROUPS}, one per stage, got {channels}"
            )
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        widths = (in_channels, *channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 3, stride=1 if stage == 0 else 2, padding=1),
                nn.GroupNorm(GROUPS, width),
                nn.GELU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(GROUPS, width),
                nn.GELU(),
            )
            for stage, (before, width) in enumerate(pairwise(widths))
        )
        self.logits = nn.Linear(channels[-1], n_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the logits are computed from: the last map, averaged over space.

        Args:
            images: (n, in_channels, height, width), values in [-1, 1].

        Returns:
            (n, channels[-1]).
        """
        maps = images
        for stage in self.stages:
            maps = stage(maps)
        return maps.mean(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class logits, (n, n_classes), of images as for :meth:`features`."""
        return self.logits(self.features(images))


@torch.no_grad()
def class_probabilities(
    model: nn.Module, images: torch.Tensor, batch_size: int = 256
) -> torch.Tensor:
    """Softmax of the logits of any classifier, computed batch by batch without gradients.

    Args:
        model: maps (n, channels, height, width) to logits (n, n_classes).
        images: (n, channels, height, width).
        batch_size: images per call of the model.

    Returns:
        (n, n_classes), rows sum to one.
    """
    return torch.cat([model(batch).softmax(dim=1) for batch in images.split(batch_size)])
