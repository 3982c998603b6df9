"""Images whose pixels are emitted by hidden symbols, on a tree or on a chain, denoised exactly.

Every site of a square grid holds a symbol, and the symbol a patch of mean colours, to which the
texture is added, white Gaussian noise. The sites are the leaves of a tree of s = 4 whose nodes
cover squares: the first child of a node is its upper left quarter, then upper right, lower left and
lower right. What the symbols follow is exchangeable, and inference on it exact: the rules of a
tree, or a Markov chain along its leaves, in which no node is above another.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from hierphase.checks import check_shape, fractions, positive_integer
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.belief_propagation_torch import choose
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator, drawn

_SAMPLES = 100_000  # of a tree, to which a chain is fitted


@dataclass(frozen=True)
class TreeSymbols:
    """Symbols at the leaves of a Random Hierarchy Model, and their class.

    Args:
        rhm: the model.
    """

    rhm: RandomHierarchyModel

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return self.rhm.n_classes

    def draw(self, classes: Tensor, generator) -> Tensor:
        """Symbols (n, sites) of given classes (n,); ``generator``: one, or a list of n."""
        symbols = classes[:, None]
        for rules in reversed(self.rhm.rules):
            uniform = drawn(torch.rand, symbols.shape, generator, dtype=torch.float64)
            symbols = rules[symbols, (uniform * self.rhm.m).long()].flatten(1)
        return symbols

    def log_joint(self, log_beliefs: Tensor) -> Tensor:
        """log p(observation | class), (n, C) float64, of log-likelihoods (n, sites, v)."""
        posterior = BeliefPropagation(self.rhm)(log_beliefs, log=True)
        message = posterior.messages[-1][:, 0]
        relative = (message / message.mean(-1, keepdim=True)).log()
        return posterior.log_evidence[:, None] + relative

    def posterior_draw(self, log_beliefs: Tensor, generator) -> tuple[Tensor, Tensor]:
        """Symbols (n, sites) and classes (n,) given log-likelihoods (n, sites, v)."""
        posterior = BeliefPropagation(self.rhm)(log_beliefs, log=True)
        levels = posterior.sample(1, generator)
        return levels[0][0], levels[-1][0, :, 0]


@dataclass(frozen=True)
class ChainSymbols:
    """Symbols that are a Markov chain along the sites, with its own transitions at each.

    Args:
        chances: (C, sites, v, v), of the symbol at a site (last axis) given the one before, in
            each class; positive. At the first site all given symbols have the same.
    """

    chances: Tensor

    @classmethod
    def fitted(cls, symbols: Tensor, classes: Tensor, v: int, independent=False) -> "ChainSymbols":
        """The chain with the frequencies of neighbours in data, half a count added to each.

        Args:
            symbols: (n, sites).
            classes: (n,), 0 to C - 1.
            v: number of symbols.
            independent: forget the symbol before: sites are independent given the class.
        """
        before = torch.cat([symbols.new_zeros(len(symbols), 1), symbols[:, :-1]], 1)
        sites = torch.arange(symbols.shape[1])
        codes = ((classes[:, None] * len(sites) + sites) * v + before) * v + symbols
        shape = int(classes.max()) + 1, len(sites), v, v
        counts = torch.bincount(codes.flatten(), minlength=math.prod(shape)).double().view(shape)
        counts[:, :1] = counts[:, :1].sum(2, keepdim=True)
        if independent:
            counts = counts.sum(2, keepdim=True).expand(shape)
        return cls((counts + 0.5) / (counts + 0.5).sum(-1, keepdim=True))

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self.chances)

    def draw(self, classes: Tensor, generator) -> Tensor:
        """As :meth:`TreeSymbols.draw`."""
        n, sites = len(classes), self.chances.shape[1]
        uniform = drawn(torch.rand, (n, sites), generator, dtype=torch.float64)
        symbols = [torch.zeros_like(classes)]
        for i in range(sites):
            symbols.append(choose(self.chances[classes, i, symbols[-1]], uniform[:, i]))
        return torch.stack(symbols[1:], 1)

    def _forward(self, log_beliefs):
        """p(symbol | class, seen up to its site), (n, C, v) a site, and :meth:`log_joint`."""
        largest = log_beliefs.amax(-1, keepdim=True)
        beliefs, log = (log_beliefs - largest).exp(), largest.sum((1, 2))[:, None]
        passed = [beliefs.new_full((len(beliefs), *self.chances.shape[::3]), 1 / beliefs.shape[-1])]
        for i in range(beliefs.shape[1]):
            new = torch.einsum("ncv,cvw->ncw", passed[-1], self.chances[:, i])
            new = new * beliefs[:, i, None]
            scale = new.sum(-1, keepdim=True)
            passed.append(new / scale)
            log = log + scale[..., 0].log()
        return passed[1:], log

    def log_joint(self, log_beliefs: Tensor) -> Tensor:
        """As :meth:`TreeSymbols.log_joint`."""
        return self._forward(log_beliefs)[1]

    def posterior_draw(self, log_beliefs: Tensor, generator) -> tuple[Tensor, Tensor]:
        """As :meth:`TreeSymbols.posterior_draw`."""
        passed, log = self._forward(log_beliefs)
        n, sites = log_beliefs.shape[:2]
        uniform = drawn(torch.rand, (n, sites + 1), generator, dtype=torch.float64)
        classes, rows = choose(log.softmax(1), uniform[:, -1]), torch.arange(n)
        symbols = [choose(passed[-1][rows, classes], uniform[:, sites - 1])]
        for i in range(sites - 1, 0, -1):
            weight = passed[i - 1][rows, classes] * self.chances[classes, i, :, symbols[-1]]
            symbols.append(choose(weight, uniform[:, i - 1]))
        return torch.stack(symbols[::-1], 1), classes


@dataclass(frozen=True, eq=False)
class SymbolImages:
    """Images (channels, side, side) of symbols on a grid of sites, 2^L a side.

    x_0 = pattern + contrast times the colours of the symbols + texture. Contrasts are equally
    likely, whatever the class; classes are the pairs of a pattern and a class of the symbols, in
    this order, equally likely.

    Args:
        symbols: what the symbols follow.
        colours: (v, channels, p, p) mean colours of each symbol.
        texture: standard deviation of a pixel around its mean, positive.
        patterns: (O, channels, side, side).
        contrasts: (M,).

    Raises:
        ValueError: a texture that is not positive.

    Example:
        >>> import torch
        >>> from hierphase.rhm.symbol_images import tree_images
        >>> images = tree_images(L=3, seed=0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> x_0 = images.draw(torch.arange(4), generator)
        >>> x_0.shape
        torch.Size([4, 3, 32, 32])
        >>> x_t = 0.8**0.5 * x_0 + 0.2**0.5 * torch.randn(x_0.shape, generator=generator)
        >>> images.class_posterior(x_t, alpha_bar=0.8).argmax(1)
        tensor([0, 1, 2, 3])
    """

    symbols: TreeSymbols | ChainSymbols
    colours: Tensor
    texture: float
    patterns: Tensor
    contrasts: Tensor

    def __post_init__(self):
        if not 0 < self.texture < math.inf:
            raise ValueError(f"texture must be positive, got {self.texture}")

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self.patterns) * self.symbols.n_classes

    def draw(self, classes: Tensor, generator) -> Tensor:
        """x_0 (n, channels, side, side), float32, of given classes.

        Args:
            classes: (n,).
            generator: one, or a list of n.
        """
        uniform = drawn(torch.rand, classes.shape, generator, dtype=torch.float64)
        contrast = self.contrasts[(uniform * len(self.contrasts)).long()].view(-1, 1, 1)
        pattern = self._patches(self.patterns)[classes // self.symbols.n_classes]
        symbols = self.symbols.draw(classes % self.symbols.n_classes, generator)
        mean = pattern + contrast * self._sites[symbols]
        noise = drawn(torch.randn, mean.shape, generator, dtype=torch.float64)
        return self._images(mean + self.texture * noise).float()

    def class_posterior(self, x_t: Tensor, alpha_bar) -> Tensor:
        """P(class | x_t), (n, C).

        Args:
            x_t: (n, channels, side, side), sqrt(abar) x_0 + sqrt(1 - abar) times normal noise.
            alpha_bar: abar_t, one number or one for each row (n,), in [0, 1].
        """
        joint = self._log_joint(*self._rows(x_t, alpha_bar))
        return joint.logsumexp(2).flatten(1).softmax(1).to(x_t.dtype)

    def log_evidence(self, x_t: Tensor, alpha_bar) -> Tensor:
        """log p(x_t), in nats: (n,) float64; arguments as of :meth:`class_posterior`."""
        joint = self._log_joint(*self._rows(x_t, alpha_bar)).flatten(1)
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
        rows, alpha_bar = self._rows(x_t, alpha_bar)
        weight = self._log_joint(rows, alpha_bar).logsumexp(3).flatten(1).softmax(1)
        uniform = drawn(torch.rand, (len(rows),), generator, dtype=torch.float64)
        mode, M = choose(weight, uniform), len(self.contrasts)
        pattern = self._patches(self.patterns)[mode // M]
        contrast = self.contrasts[mode % M].view(-1, 1, 1)
        beliefs = self._log_beliefs(rows, alpha_bar, pattern, contrast)
        symbols, classes = self.symbols.posterior_draw(beliefs, generator)
        mean = pattern + contrast * self._sites[symbols]
        noise = drawn(torch.randn, mean.shape, generator, dtype=torch.float64)
        share = self.texture**2 / self._variance(alpha_bar)
        x_0 = mean + alpha_bar.sqrt() * share * (rows - alpha_bar.sqrt() * mean)
        x_0 += ((1 - alpha_bar) * share).sqrt() * noise
        return self._images(x_0).to(x_t.dtype), mode // M * self.symbols.n_classes + classes

    def coarse(self, factor: int) -> "SymbolImages":
        """The law of means over squares of ``factor`` pixels a side, which divides a patch.

        Raises:
            ValueError: it does not.
        """
        if self.colours.shape[-1] % positive_integer("coarse", factor):
            raise ValueError(
                f"coarse must divide patches of {self.colours.shape[-1]}, got {factor}"
            )
        colours, patterns = (avg_pool2d(x, factor) for x in (self.colours, self.patterns))
        return replace(self, colours=colours, patterns=patterns, texture=self.texture / factor)

    @cached_property
    def _sites(self):
        return self.colours.double().flatten(1)

    @cached_property
    def _order(self):
        """(sites, channels p p) the pixels of each site, as numbers into a flat image."""
        (_, channels, side, _), p = self.patterns.shape, self.colours.shape[-1]
        L = (side // p).bit_length() - 1
        pixels = torch.arange(self.patterns[0].numel()).view(channels, *2 * (*[2] * L, p))
        halves = [axis for level in range(1, L + 1) for axis in (level, level + L + 1)]
        return pixels.permute(*halves, 0, L + 1, 2 * L + 2).reshape(4**L, -1)

    def _patches(self, images):
        return images.double().flatten(1)[:, self._order]

    def _images(self, patches):
        flat = torch.empty_like(patches).flatten(1)
        flat[:, self._order.flatten()] = patches.flatten(1)
        return flat.view(-1, *self.patterns.shape[1:])

    def _rows(self, x_t, alpha_bar):
        check_shape("x_t", x_t, "n", *self.patterns.shape[1:])
        alpha_bar = torch.as_tensor(fractions("alpha_bar", alpha_bar))
        return self._patches(x_t), alpha_bar.expand(len(x_t))[:, None, None]

    def _variance(self, alpha_bar):
        return alpha_bar * self.texture**2 + 1 - alpha_bar

    def _log_beliefs(self, rows, alpha_bar, pattern, contrast):
        """log p(x_t of a site | symbol, pattern, contrast), (n, sites, v)."""
        scale, rows = alpha_bar.sqrt() * contrast, rows - alpha_bar.sqrt() * pattern
        variance, size = self._variance(alpha_bar), rows.shape[-1]
        squares = rows.square().sum(-1, keepdim=True) - 2 * scale * (rows @ self._sites.T)
        squares = squares + scale**2 * self._sites.square().sum(1)
        return -(squares / variance + size * (2 * math.pi * variance).log()) / 2

    def _log_joint(self, rows, alpha_bar):
        """log p(x_t | pattern, contrast, class of the symbols), (n, O, M, C / O)."""
        logs = [
            self.symbols.log_joint(self._log_beliefs(rows, alpha_bar, pattern, contrast))
            for pattern in self._patches(self.patterns)
            for contrast in self.contrasts
        ]
        return torch.stack(logs, 1).unflatten(1, (-1, len(self.contrasts)))


def tree_images(
    L: int, seed: int = 0, texture: float = 0.1, contrast: float = 0.0, coarse: int = 1
) -> SymbolImages:
    """Images of a Random Hierarchy Model of v = 10, m = 20, s = 4 and 10 classes, in colour.

    Symbols are 4 by 4 pixels, so that a side has 4 times 2^L, of mean colours that are normal with
    standard deviation 1/2.

    Args:
        L: depth of the tree.
        seed: of its rules and colours.
        texture: standard deviation of a pixel around its mean.
        contrast: standard deviation of the logarithm of the contrast, which takes the middles of
            five equally likely parts of that normal law; 0 for none.
        coarse: side of the squares over which pixels are averaged: 1, 2 or 4.

    Raises:
        ValueError: a value out of range.
    """
    rhm = RandomHierarchyModel(v=10, m=20, s=4, L=L, n_classes=10, seed=seed)
    colours = 0.5 * torch.randn(rhm.v, 3, 4, 4, generator=derived_generator(seed, 0))
    patterns = torch.zeros(1, 3, 4 * 2**rhm.L, 4 * 2**rhm.L)
    quantiles = (
        torch.special.ndtri(torch.arange(0.1, 1, 0.2).double()) if contrast else torch.zeros(1)
    )
    contrasts = (contrast * quantiles).exp()
    images = SymbolImages(TreeSymbols(rhm), colours, texture, patterns, contrasts)
    return images.coarse(coarse)


def chain_images(
    tree: SymbolImages, independent: bool = False, pattern: float = 0.0, seed: int = 0
) -> SymbolImages:
    """Images with a Markov chain in place of a tree, fitted to 100,000 samples of its leaves.

    Args:
        tree: images of :func:`tree_images`, whose colours, texture and contrasts are kept.
        independent: leaves that are independent given the class, in place of a chain.
        pattern: 0 gives each class a chain of its own; otherwise there is one for all classes, and
            what tells them apart is a pattern of each, white noise of this standard deviation.
        seed: of the samples and the patterns.
    """
    levels, v = tree.symbols.rhm.sample(_SAMPLES, seed), tree.symbols.rhm.v
    classes = levels[-1][:, 0] * (pattern == 0)
    symbols = ChainSymbols.fitted(levels[0], classes, v, independent)
    shape = tree.n_classes if pattern else 1, *tree.patterns.shape[1:]
    patterns = pattern * torch.randn(shape, generator=derived_generator(seed, 1))
    return replace(tree, symbols=symbols, patterns=patterns)
