"""Networks for data on a tree: their filters are as wide as its branching and never overlap."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from hierphase.checks import check_shape


class PatchConvolution(nn.Linear):
    """Convolution with filter size and stride s: one linear map for every patch of s positions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        s: size of a patch.
    """

    def __init__(self, in_channels: int, out_channels: int, s: int):
        super().__init__(s * in_channels, out_channels)
        self.s = s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in_channels, d) -> (n, out_channels, d/s)."""
        # Channels are last in memory and only look first: neither permutation copies anything.
        patches = x.unflatten(2, (-1, self.s)).permute(0, 2, 3, 1).flatten(2)
        return super().forward(patches).mT


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each position."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, d) -> (n, channels, d)."""
        return super().forward(x.mT).mT


class TreeClassifier(ModelMixin, ConfigMixin):
    """A CNN with the shape of the tree: one layer a level, filters of size s and stride s, ReLU.

    Layer l (from 1) is a :class:`PatchConvolution`, the ReLU, and a normalisation over channels,
    without which the deep network does not begin to learn. It has s^(L-l) positions, as level l of
    the tree has symbols. The last is mapped linearly to the class logits. The modules to probe are
    ``layers.0.convolution`` (before the ReLU), ``layers.0.relu`` (after it), ..., ``logits``.
    (Cagnetta et al., arXiv 2307.02129; Sclocchi et al., arXiv 2402.16991.)

    Args:
        v: number of symbols; the input channels.
        s: branching; size and stride of the filters.
        L: number of layers; the data have s**L leaves.
        n_classes: number of classes.
        width: channels of every layer.
    """

    @register_to_config
    def __init__(self, v=16, s=2, L=7, n_classes=16, width=128):
        super().__init__()
        self.layers = nn.ModuleList()
        for level in range(L):
            layer = nn.Sequential()
            layer.add_module("convolution", PatchConvolution(width if level else v, width, s))
            layer.add_module("relu", nn.ReLU())
            layer.add_module("norm", ChannelNorm(width))
            self.layers.append(layer)
        self.logits = nn.Linear(width, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class logits (n, n_classes) of encoded leaves (n, v, s**L).

        Raises:
            ValueError: leaves of another shape.
        """
        check_shape("x", x, "n", self.config.v, self.config.s**self.config.L)
        for layer in self.layers:
            x = layer(x)
        return self.logits(x[:, :, 0])
