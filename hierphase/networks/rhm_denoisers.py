"""Two networks that denoise data on a tree: a U-Net of the shape of the tree, and a transformer.

Both predict the noise, and both by the same last step. The network gives logits for the symbol of
every leaf; what the leaf's own noisy code says about its symbol is known in closed form and added
to them; the softmax estimates E[x_0 | x_t], and the predicted noise is
(x_t - sqrt(abar) E[x_0 | x_t]) / sqrt(1 - abar). So the network has to learn what the *other*
leaves say, the downward messages of belief propagation (:mod:`hierphase.rhm.belief_propagation`).
It is given x_t and t as the leaf beliefs, which hold all that both say about x_0. The U-Net knows
which leaves are siblings, the transformer not even that; neither knows a rule.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_1d import UNet1DOutput
from torch import nn

from hierphase.checks import check_shape
from hierphase.rhm.corruption import GaussianProcess, ddpm_scheduler


class TreeDenoiser(ModelMixin, ConfigMixin):
    """What both networks share: how x_t and t come in, and how logits become predicted noise."""

    def __init__(self, v: int, width: int):
        super().__init__()
        self.process = GaussianProcess(ddpm_scheduler(), v)
        self.leaves = nn.Linear(v, width)
        self.mix = Feedforward(width, 2 * width, width)

    def forward(self, x_t: torch.Tensor, t) -> UNet1DOutput:
        """Predict the noise in x_t.

        Args:
            x_t: (n, v, d) noisy one-hot codes.
            t: time index 0..T-1, an integer or an integer tensor, scalar or (n,).

        Returns:
            Its ``sample``, (n, v, d).

        Raises:
            ValueError: wrong shape or dtype, or t out of range.
        """
        check_shape("x_t", x_t, "n", self.config.v, self.config.s**self.config.L)
        evidence = self.process.log_beliefs(x_t, t)
        inside = self.mix(self.leaves(evidence.softmax(-1)))
        x_0 = (self._logits(inside) + evidence).softmax(-1).mT
        return UNet1DOutput(sample=self.process.noise(x_t, x_0, t))


class Feedforward(nn.Sequential):
    """Linear map, ReLU, linear map, layer normalisation; along the last dimension."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int):
        first, second = nn.Linear(n_in, n_hidden), nn.Linear(n_hidden, n_out)
        super().__init__(first, nn.ReLU(), second, nn.LayerNorm(n_out))


class TreeUNet(TreeDenoiser):
    """A U-Net whose strides match the tree: it merges s positions a level, and splits them again.

    On the way down from the leaves to the root and back each level has maps of its own, shared by
    its positions. Skip connections bring what the merged positions held to where they are split.
    That is the data flow of belief propagation.

    Args:
        v: number of symbols.
        s: branching of the tree.
        L: depth; the data have s**L leaves.
        width: channels at every position.
        n_hidden: channels between the two linear maps of a merger or a split.
    """

    @register_to_config
    def __init__(self, v=8, s=2, L=4, width=32, n_hidden=96):
        super().__init__(v, width)
        self.merge = nn.ModuleList(Feedforward(s * width, n_hidden, width) for _ in range(L))
        below = s * width
        self.split = nn.ModuleList(Feedforward(width + below, n_hidden, below) for _ in range(L))
        self.head = nn.Linear(width, v)

    def _logits(self, x):
        """(n, d, width) -> (n, d, v)."""
        skipped = []
        for merge in self.merge:
            skipped.append(x.unflatten(1, (-1, self.config.s)).flatten(2))
            x = merge(skipped[-1])
        for split in reversed(self.split):
            children = split(torch.cat([x, skipped.pop()], dim=-1))
            x = children.unflatten(2, (self.config.s, -1)).flatten(1, 2)
        return self.head(x)


class TreeTransformer(TreeDenoiser):
    """A transformer encoder with one token a leaf and learned positions: the tree is not built in.

    Args:
        v: number of symbols.
        s: branching of the tree.
        L: depth; only the number of leaves, s**L, is used.
        width: channels of a token.
        n_blocks: layers of attention and feedforward maps.
        n_heads: attention heads; divide ``width``.
    """

    @register_to_config
    def __init__(self, v=8, s=2, L=4, width=48, n_blocks=3, n_heads=4):
        super().__init__(v, width)
        self.positions = nn.Linear(s**L, width, bias=False)
        self.blocks = nn.Sequential(*(TransformerBlock(width, n_heads) for _ in range(n_blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, v)

    def _logits(self, x):
        """(n, d, width) -> (n, d, v)."""
        return self.head(self.norm(self.blocks(x + self.positions.weight.mT)))


class TransformerBlock(nn.Module):
    """Self-attention and a feedforward map, each normalised before and added to its input.

    Args:
        width: channels of a token.
        n_heads: attention heads; divide ``width``.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = Attention(width, heads=n_heads, dim_head=width // n_heads, bias=True)
        first, second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.feedforward = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, x):
        """(n, tokens, width) -> (n, tokens, width)."""
        x = x + self.attention(self.norms[0](x))
        return x + self.feedforward(self.norms[1](x))
