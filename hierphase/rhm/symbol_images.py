"""Images whose pixels are emitted by hidden symbols, on a tree or on a chain, denoised exactly.

Every site of a square grid holds a symbol, and the symbol a patch of mean colours, to which the
texture is added, white Gaussian noise. The sites are the leaves of a tree of s = 4 whose nodes
cover squares: the first child of a node is its upper left quarter, then come upper right, lower
left and lower right. The symbols follow the rules of the tree, or a Markov chain along its leaves,
in which no symbol is above another; inference on both is exact.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hierphase.checks import check_finite, check_shape, fractions
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.belief_propagation_torch import choose
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator, drawn


class TreeSymbols(RandomHierarchyModel):
    """A Random Hierarchy Model, at whose leaves the symbols are."""

    def draw(self, classes: Tensor, generator) -> Tensor:
        """Symbols (n, sites) of given classes (n,).

        Args:
            classes: (n,).
            generator: one, or a list of n.
        """
        symbols = classes[:, None]
        for level in range(self.L, 0, -1):
            uniform = drawn(torch.rand, symbols.shape, generator, dtype=torch.float64)
            symbols = torch.from_numpy(self.below(level, symbols.numpy(), uniform.numpy()))
        return symbols

    def log_joint(self, log_beliefs: Tensor) -> Tensor:
        """log p(observation | class), (n, C).

        Args:
            log_beliefs: (n, sites, v) float64, log p(observation of a site | its symbol).
        """
        posterior = BeliefPropagation(self)(log_beliefs, log=True)
        message = posterior.messages[-1][:, 0]
        ratio = message / message.mean(1, keepdim=True)  # to the evidence, a mean over classes
        return posterior.log_evidence[:, None] + ratio.log()

    def posterior_draw(self, log_beliefs: Tensor, generator) -> tuple[Tensor, Tensor]:
        """Symbols (n, sites) and classes (n,), drawn given the observation.

        Args:
            log_beliefs: as for :meth:`log_joint`.
            generator: one, or a list of n.
        """
        levels = BeliefPropagation(self)(log_beliefs, log=True).sample(1, generator)
        return levels[0][0], levels[-1][0, :, 0]


@dataclass(frozen=True, eq=False)
class ChainSymbols:
    """A Markov chain of symbols along the sites, for each class; with :class:`TreeSymbols`' calls.

    Args:
        chances: (C, sites, v, v), of the symbol at a site (last axis) given the one before, all
            positive. At the first site they are those after symbol 0.
    """

    chances: Tensor

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self.chances)

    def draw(self, classes: Tensor, generator) -> Tensor:
        """See :meth:`TreeSymbols.draw`."""
        C, sites = self.chances.shape[:2]
        return self._along(classes, torch.ones(1).expand(sites, len(classes), C, 1), generator)

    def log_joint(self, log_beliefs: Tensor) -> Tensor:
        """See :meth:`TreeSymbols.log_joint`."""
        return self._messages(log_beliefs)[1]

    def posterior_draw(self, log_beliefs: Tensor, generator) -> tuple[Tensor, Tensor]:
        """See :meth:`TreeSymbols.posterior_draw`."""
        messages, log = self._messages(log_beliefs)
        classes = choose(log.softmax(1), drawn(torch.rand, log.shape[:1], generator))
        return self._along(classes, messages, generator), classes

    def _messages(self, log_beliefs):
        """p(what is seen from a site on | its symbol, class), up to a factor, and log_joint.

        For each site a tensor (n, C, v).
        """
        largest = log_beliefs.amax(-1, keepdim=True)
        beliefs, log = (log_beliefs - largest).exp(), largest.sum(1)
        messages, after = [], torch.ones(self.n_classes, 1)
        for i in reversed(range(beliefs.shape[1])):
            messages.insert(0, beliefs[:, i, None] * after)
            after = torch.einsum("...cw,cvw->...cv", messages[0], self.chances[:, i])
            scale = after.amax(-1, keepdim=True)
            after, log = after / scale, log + scale[..., 0].log()
        return messages, log + after[..., 0].log()

    def _along(self, classes, messages, generator):
        uniform = drawn(torch.rand, (len(classes), len(messages)), generator, dtype=torch.float64)
        symbols, rows = [torch.zeros_like(classes)], torch.arange(len(classes))
        for i, message in enumerate(messages):
            weight = self.chances[classes, i, symbols[-1]] * message[rows, classes]
            symbols.append(choose(weight, uniform[:, i]))
        return torch.stack(symbols[1:], 1)


@dataclass(eq=False)
class SymbolImages:
    """Images of symbols on a grid of sites, 2^L a side: x_0 = mean of the symbols + texture.

    The means of all patches may also depend on the kind of an image, which is part of its class,
    and on a mode, which is not (its contrast). Classes are numbered kind by kind.

    Args:
        symbols: what the symbols follow, in all kinds and modes.
        means: (kinds, modes, 4^L sites, v, channels, p, p) of each symbol; all pairs of a kind and
            a mode are equally likely.
        texture: standard deviation of a pixel around its mean, positive.
        places: (4^L sites,) where each is, a permutation; by default in its own place.

    Raises:
        ValueError: a texture that is not positive, or means of another shape, NaN or infinity.

    Attributes:
        n_classes: kinds times the classes of the symbols, all equally likely.
        shape: (channels, side, side) of an image.

    Example:
        >>> import torch
        >>> from hierphase.rhm.symbol_images import tree_images
        >>> images = tree_images(L=3, seed=0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> x_0 = images.draw(torch.arange(4), generator)
        >>> x_0.shape
        torch.Size([4, 3, 32, 32])
        >>> x_t = 0.5**0.5 * x_0 + 0.5**0.5 * torch.randn(x_0.shape, generator=generator)
        >>> images.class_posterior(x_t, alpha_bar=0.5).argmax(1)
        tensor([0, 1, 2, 3])
    """

    symbols: TreeSymbols | ChainSymbols
    means: Tensor
    texture: float
    places: Tensor | None = None

    def __post_init__(self):
        if not 0 < self.texture < math.inf:
            raise ValueError(f"texture must be positive, got {self.texture}")
        check_finite("means", self.means, "kinds modes sites v channels p p")
        kinds, _, sites, _, channels, p, _ = self.means.shape
        L = sites.bit_length() // 2
        self.n_classes, self.shape = kinds * self.symbols.n_classes, (channels, p << L, p << L)
        pixels = torch.arange(math.prod(self.shape)).view(channels, *2 * (*[2] * L, p))
        halves = [axis for level in range(1, L + 1) for axis in (level, level + L + 1)]
        order = pixels.permute(*halves, 0, L + 1, 2 * L + 2).reshape(sites, -1)
        self._order = order if self.places is None else order[self.places]
        self._means = self.means.double().flatten(4).flatten(0, 1)

    def draw(self, classes: Tensor, generator) -> Tensor:
        """x_0 (n, channels, side, side), float32, of given classes.

        Args:
            classes: (n,).
            generator: one, or a list of n.
        """
        kind, own = classes // self.symbols.n_classes, classes % self.symbols.n_classes
        uniform = drawn(torch.rand, classes.shape, generator, dtype=torch.float64)
        pair = ((kind + uniform) * self.means.shape[1]).long()
        symbols, nothing = self.symbols.draw(own, generator), torch.zeros(1, 1, 1).double()
        return self._given_symbols(nothing, nothing, pair, symbols, generator).float()

    def class_posterior(self, x_t: Tensor, alpha_bar) -> Tensor:
        """P(class | x_t), (n, C).

        Args:
            x_t: (n, channels, side, side), sqrt(abar) x_0 + sqrt(1 - abar) times normal noise.
            alpha_bar: abar_t, one number or one for each row (n,), in [0, 1].
        """
        joint = self._log_joint(self._observed(x_t, alpha_bar)[2])
        return joint.logsumexp(2).flatten(1).softmax(1).to(x_t.dtype)

    def log_evidence(self, x_t: Tensor, alpha_bar) -> Tensor:
        """log p(x_t), in nats: (n,) float64; arguments as of :meth:`class_posterior`."""
        joint = self._log_joint(self._observed(x_t, alpha_bar)[2]).flatten(1)
        return joint.logsumexp(1) - math.log(joint.shape[1])

    def denoised(self, x_t: Tensor, alpha_bar, generator) -> tuple[Tensor, Tensor]:
        """One draw from p(x_0, class | x_t) for each row.

        Args:
            x_t: (n, channels, side, side), as for :meth:`class_posterior`.
            alpha_bar: likewise.
            generator: one, or a list of n.

        Returns:
            x̂_0 (n, channels, side, side), and the class (n,) of each.
        """
        rows, alpha_bar, beliefs = self._observed(x_t, alpha_bar)
        weight = self._log_joint(beliefs).logsumexp(3).flatten(1).softmax(1)
        pair = choose(weight, drawn(torch.rand, (len(rows),), generator))
        beliefs = beliefs[torch.arange(len(rows)), pair]
        symbols, classes = self.symbols.posterior_draw(beliefs, generator)
        x_0 = self._given_symbols(rows, alpha_bar, pair, symbols, generator).to(x_t.dtype)
        return x_0, pair // self.means.shape[1] * self.symbols.n_classes + classes

    def _observed(self, x_t, alpha_bar):
        """x_t (n, sites, pixels), abar, log p(x_t of a site | its symbol): (n, pairs, sites, v)."""
        check_shape("x_t", x_t, "n", *self.shape)
        alpha_bar = torch.as_tensor(fractions("alpha_bar", alpha_bar)).expand(len(x_t))
        rows, level = x_t.double().flatten(1)[:, self._order], alpha_bar.view(-1, 1, 1, 1)
        squares = rows.square().sum(2)[:, None, :, None] + level * self._means.square().sum(3)
        squares -= 2 * level.sqrt() * torch.einsum("nsd,msvd->nmsv", rows, self._means)
        variance = level * self.texture**2 + 1 - level
        log = squares / variance + rows.shape[2] * (2 * math.pi * variance).log()
        return rows, level[..., 0], -log / 2

    def _log_joint(self, beliefs):
        """log p(x_t | kind, mode, class of the symbols), (n, kinds, modes, classes)."""
        joint = self.symbols.log_joint(beliefs.flatten(0, 1))
        return joint.view(len(beliefs), *self.means.shape[:2], -1)

    def _given_symbols(self, rows, alpha_bar, pair, symbols, generator):
        """A draw of x_0 (n, channels, side, side): Gaussian, as texture and noise are."""
        mean = self._means[pair[:, None], torch.arange(symbols.shape[1]), symbols]
        noise = drawn(torch.randn, mean.shape, generator, dtype=torch.float64)
        share = self.texture**2 / (alpha_bar * self.texture**2 + 1 - alpha_bar)
        known = mean + alpha_bar.sqrt() * share * (rows - alpha_bar.sqrt() * mean)
        x_0 = torch.empty_like(mean).flatten(1)
        x_0[:, self._order] = known + ((1 - alpha_bar) * share).sqrt() * noise
        return x_0.view(-1, *self.shape)


def tree_images(
    L: int, seed=0, texture=0.1, contrast=0.0, coarse: int = 1, m: int = 20, shuffled=False
) -> SymbolImages:
    """Images of a Random Hierarchy Model of v = 10, s = 4 and 10 classes, in colour.

    Symbols are 4 by 4 pixels, so that images have 4 times 2^L a side. Their mean colours are
    normal, of standard deviation 1/2 a pixel.

    Args:
        L: depth of the tree.
        seed: of its rules and colours.
        texture: standard deviation of a pixel around its mean, positive.
        contrast: standard deviation of the logarithm of a contrast that multiplies the mean colours
            of an image: the middles of five equally likely parts of that normal law; 0 for none.
        coarse: side of the squares over which the images of all this are averaged: 1, 2 or 4.
        m: rules of each symbol.
        shuffled: the leaves of a tree lie anywhere, those of all images in the same places.

    Raises:
        ValueError: as of the model, or as of :class:`SymbolImages`.
    """
    tree = TreeSymbols(v=10, m=m, s=4, L=L, n_classes=10, seed=seed)
    colours = 0.5 * torch.randn(tree.v, 3, 4, 4, generator=derived_generator(seed, 0))
    colours = torch.nn.functional.avg_pool2d(colours, coarse)
    middles = torch.special.ndtri(torch.arange(0.1, 1, 0.2)) if contrast else torch.zeros(1)
    contrasts = (contrast * middles).exp().view(1, -1, 1, 1, 1, 1, 1)
    means = (contrasts * colours).expand(-1, -1, tree.d, -1, -1, -1, -1)
    places = torch.randperm(tree.d, generator=derived_generator(seed, 2)) if shuffled else None
    return SymbolImages(tree, means, texture / coarse, places)
