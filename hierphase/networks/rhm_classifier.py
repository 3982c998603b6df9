"""Networks that classify data on a tree: of its shape, of another, and with none built in."""

from collections import OrderedDict

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from hierphase.checks import check_shape
from hierphase.networks.rhm_denoisers import TransformerBlock


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
    the tree has symbols. The last is mapped linearly to the class logits. Other strides give it
    another shape: the number of leaves as the only one makes it a perceptron, 1 adds a layer that
    merges nothing. (Cagnetta et al., arXiv 2307.02129; Sclocchi et al., arXiv 2402.16991.)

    Args:
        v: number of symbols; the input channels.
        s: branching; size and stride of the filters.
        L: number of layers; the data have s**L leaves.
        n_classes: number of classes.
        width: channels of every layer.
        strides: of the layers, from the leaves on, of product s**L, in place of s for each of L.

    Attributes:
        probed: the modules to look at, every layer before and after its ReLU, and the logits.
    """

    @register_to_config
    def __init__(self, v=16, s=2, L=7, n_classes=16, width=128, strides=None):
        super().__init__()
        strides = [s] * L if strides is None else strides
        self.layers = nn.Sequential()
        for i, stride in enumerate(strides):
            convolution = PatchConvolution(width if i else v, width, stride)
            parts = OrderedDict(convolution=convolution, relu=nn.ReLU(), norm=ChannelNorm(width))
            self.layers.append(nn.Sequential(parts))
        self.logits = nn.Linear(width, n_classes)
        parts = [f"{i}.{part}" for i in range(len(strides)) for part in ("convolution", "relu")]
        self.probed = [*(f"layers.{part}" for part in parts), "logits"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class logits (n, n_classes) of encoded leaves (n, v, s**L).

        Raises:
            ValueError: leaves of another shape.
        """
        check_shape("x", x, "n", self.config.v, self.config.s**self.config.L)
        return self.logits(self.layers(x).flatten(1))


class LeafTransformer(ModelMixin, ConfigMixin):
    """A transformer encoder with one token a leaf, whose mean over leaves gives the class.

    Args:
        v: number of symbols; the input channels.
        s: branching of the tree.
        L: depth; only the number of leaves, s**L, is used.
        n_classes: number of classes.
        width: channels of a token.
        n_blocks: layers of attention and feedforward maps.
        n_heads: attention heads; divide ``width``.

    Attributes:
        probed: the modules to look at, every block, and the logits.
    """

    @register_to_config
    def __init__(self, v=16, s=2, L=7, n_classes=16, width=64, n_blocks=3, n_heads=4):
        super().__init__()
        self.leaves, self.positions = nn.Linear(v, width), nn.Linear(s**L, width, bias=False)
        self.layers = nn.Sequential(*(_ChannelsFirst(width, n_heads) for _ in range(n_blocks)))
        self.norm, self.logits = nn.LayerNorm(width), nn.Linear(width, n_classes)
        self.probed = [*(f"layers.{i}" for i in range(n_blocks)), "logits"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class logits (n, n_classes) of encoded leaves (n, v, s**L).

        Raises:
            ValueError: leaves of another shape.
        """
        check_shape("x", x, "n", self.config.v, self.config.s**self.config.L)
        x = self.layers(self.leaves(x.mT).mT + self.positions.weight)
        return self.logits(self.norm(x.mean(2)))


class _ChannelsFirst(TransformerBlock):
    """A block whose activations have the channels before the positions, as a convolution's."""

    def forward(self, x):
        return super().forward(x.mT).mT
