r"""The Random Hierarchy Model, a random context-free grammar on a regular tree.

Level L is the class, level 0 the :math:`d = s^L` visible leaves. Every symbol of level l+1 owns m
production rules, tuples of s symbols of level l; no tuple has two owners, so data can be parsed
back without ambiguity. (Cagnetta et al., arXiv 2307.02129.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from hierphase import checks

# Distinct streams of one seed, so that rules and samples of equal seeds are independent.
_RULES, _SAMPLES = 0, 1
DTYPES = {
    "integers": (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    "float32 or float64": (torch.float32, torch.float64),
}


@dataclass(frozen=True)
class RandomHierarchyModel:
    r"""One draw of the rules of a Random Hierarchy Model.

    Args:
        v: number of symbols at each level below the top, at least 2.
        m: number of rules of each symbol (synonyms); or L numbers, those of levels 1 to L.
        s: number of symbols in a rule (the branching of the tree), at least 2.
        L: depth; the data have :math:`d = s^L` leaves.
        n_classes: number of symbols at level L; None means v.
        seed: of the draw of the rules; equal arguments give equal rules.
        zipf: exponent z of the probability of a symbol's rules, :math:`\propto 1/r^z` for
            r = 1..m in the order they are drawn; 0 means that they are equally likely.

    Attributes:
        rules: list of L LongTensors; ``rules[l-1]``, of shape (v or n_classes, m, s), holds the
            tuples of level l-1 symbols that each symbol of level l can produce. Drawn uniformly
            without replacement from the :math:`v^s` possible ones.
        label: of the one class of :meth:`of_class`; None for all.

    Raises:
        ValueError: a size is not a positive integer, the rules do not fit into the :math:`v^s`
            tuples or into memory, there are more than :math:`2^{62}` leaves, other than L numbers
            of rules, or a negative exponent.

    Example:
        >>> from hierphase import RandomHierarchyModel
        >>> rhm = RandomHierarchyModel(v=8, m=2, s=2, L=3, seed=0)
        >>> levels = rhm.sample(4)  # four trees: the leaves first, the class last
        >>> [tuple(level.shape) for level in levels]
        [(4, 8), (4, 4), (4, 2), (4, 1)]
        >>> bool((rhm.parse(levels[0])[3] == levels[3]).all())  # read back
        True
    """

    v: int
    m: int | Sequence[int]
    s: int
    L: int
    n_classes: int | None = None
    seed: int = 0
    zipf: float = 0.0
    label: int | None = field(default=None, init=False, repr=False)
    rules: list[torch.Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self):
        v, s = (checks.positive_integer(name, getattr(self, name), minimum=2) for name in "vs")
        n_classes = v if self.n_classes is None else self.n_classes
        n_classes = checks.positive_integer("n_classes", n_classes)
        depth, zipf = checks.tree_depth(self.L, s, 62), checks.within("zipf", self.zipf, 0, 100)
        every = checks.rules_by_level(self.m, depth)
        for level, m in enumerate(every, 1):
            checks.tree_sizes(v, m, s, n_classes if level == depth else v)
        if v**s >= 2**62:
            raise ValueError(f"v**s = {v}**{s} tuples are too many: at most 2**62 can be drawn")
        m = every if isinstance(self.m, list | tuple) else every[0]
        n_bytes = 32 * sum(every) * max(v, n_classes) * s  # of which 24 while they are drawn
        checks.check_memory(n_bytes, "rules", v=v, m=m, s=s, L=depth)
        seed = checks.positive_integer("seed", self.seed, minimum=0)
        vars(self).update(v=v, m=m, s=s, L=depth, n_classes=n_classes, seed=seed, zipf=float(zipf))
        rng = np.random.default_rng((_RULES, seed))
        for level, m in enumerate(every, 1):
            codes = rng.choice(v**s, size=(self.n_symbols(level), m, 1), replace=False)
            self.rules.append(torch.from_numpy(codes // v ** np.arange(s - 1, -1, -1) % v))

    @property
    def d(self) -> int:
        """:math:`s^L`, the number of leaves."""
        return self.s**self.L

    @property
    def n_nodes(self) -> int:
        r"""Number of nodes of all levels, :math:`1 + s + \dots + s^L`."""
        return sum(self.s**above for above in range(self.L + 1))

    def n_symbols(self, level: int) -> int:
        """Number of symbols at ``level``: v, or n_classes at the top."""
        return self.n_classes if level == self.L else self.v

    def of_class(self, label: int) -> "RandomHierarchyModel":
        """The model of the data of one class alone: the same rules below it, and a single class.

        Args:
            label: the class, 0 to n_classes - 1.

        Raises:
            ValueError: no such class.
        """
        label = checks.positive_integer("label", label, 0, self.n_classes - 1)
        alone = replace(self, n_classes=1)
        vars(alone).update(label=label)  # tells the models of two classes apart
        alone.rules[:] = [*self.rules[:-1], self.rules[-1][[label]]]
        return alone

    def _rules_of(self, level: int) -> torch.Tensor:
        # 0 and -1 would be levels from the top
        return self.rules[checks.positive_integer("level", level, 1, self.L) - 1]

    def rule_weights(self, level: int) -> torch.Tensor:
        """(m,) float64 probabilities of a symbol's rules at ``level``, 1 to L, times m."""
        m = self._rules_of(level).shape[1]
        likely = torch.arange(1, m + 1, dtype=torch.float64) ** -self.zipf
        return likely * (m / likely.sum())

    def overlaps(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        """How much the rules of a level have in common with a rule that was used.

        Args:
            level: 1 to L.

        Returns:
            Arrays (s+1,), index k for k equal entries in equal places: of the rules of the same
            symbol the mean number, each counted by its probability; and the same of all rules.
            Their sums are 1 and the number of symbols.

        Raises:
            ValueError: no such level.
        """
        rules, likely = self._rules_of(level).numpy(), self.rule_weights(level).numpy()
        likely = likely / len(likely)
        own, every = np.zeros((2, self.s + 1))
        for symbol in range(len(rules)):
            common = (rules[symbol][:, None, None] == rules).sum(-1)  # (m, symbols, m)
            for k in range(self.s + 1):
                of_symbols = likely @ ((common == k) @ likely) / len(rules)
                own[k] += of_symbols[symbol]
                every[k] += of_symbols.sum()
        return own, every

    def sample(self, n: int, seed: int = 0) -> list[torch.Tensor]:
        """Draw data: a uniform class, then a rule at every node.

        Sample i is the same whatever n is. The stream is independent of the one of the rules.

        Args:
            n: number of samples.
            seed: of the draw.

        Returns:
            List of L+1 LongTensors; ``[l]`` of shape (n, s**(L-l)): the leaves first, the class
            last.

        Raises:
            ValueError: n is not a positive integer, or so many trees do not fit into memory.
        """
        n = checks.positive_integer("n", n)
        checks.check_memory(12 * n * self.n_nodes, "samples", n=n, s=self.s, L=self.L)
        rng = np.random.default_rng((_SAMPLES, checks.positive_integer("seed", seed, minimum=0)))
        # Row by row: the class, then one number a node, so that a row never depends on n.
        ends = np.cumsum([1, *(self.s**above for above in range(self.L))])
        root, *parts = np.split(rng.random((n, ends[-1])), ends[:-1], axis=1)
        levels = [(root * self.n_classes).astype(np.int64)]
        for level, part in zip(range(self.L, 0, -1), parts, strict=True):
            levels.insert(0, self.below(level, levels[0], part))
        return [torch.from_numpy(symbols) for symbols in levels]

    def below(self, level: int, symbols: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Children (n, s * nodes) of symbols (n, nodes) of ``level``.

        The rule of each is chosen by a number in [0, 1).
        """
        rules, edges = self._rules_of(level).numpy(), self.rule_weights(level).numpy().cumsum()
        places = symbols * len(edges) + np.searchsorted(edges[:-1] / len(edges), uniform, "right")
        return rules.reshape(-1, self.s).take(places, axis=0).reshape(len(symbols), -1)

    def parse(self, leaves: torch.Tensor) -> list[torch.Tensor]:
        """Recover the latent symbols of ``leaves``.

        Args:
            leaves: (n, s**L) integer tensor of symbols 0..v-1.

        Returns:
            As :meth:`sample`; -1 at every node above which no rule applies, or whose children
            could not be parsed.

        Raises:
            ValueError: wrong shape, not integers, or a symbol out of range.
        """
        check_symbols("leaves", leaves, self.v, "n", self.d)
        levels = [leaves.long()]
        powers = self.v ** torch.arange(self.s - 1, -1, -1, device=leaves.device)
        for rules in self.rules:
            children = levels[-1].unflatten(1, (-1, self.s))
            codes, order = (rules.to(leaves.device) * powers).sum(-1).flatten().sort()
            wanted = torch.where((children < 0).any(-1), -1, (children * powers).sum(-1))
            at = torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)
            levels.append(torch.where(codes[at] == wanted, order[at] // rules.shape[1], -1))
        return levels


def check_tensor(name: str, x, kind: str, *axes: str | int) -> None:
    """Raise a ValueError unless ``x`` is a tensor of this ``kind``, shaped like ``axes``.

    The kind is "integers" or "float32 or float64", the axes are as for
    :func:`~hierphase.checks.check_shape`.
    """
    if not isinstance(x, torch.Tensor) or x.dtype not in DTYPES[kind]:
        found = getattr(x, "dtype", type(x).__name__)
        raise ValueError(f"{name} must be a tensor of {kind}, got {found}")
    checks.check_shape(name, x, *axes)


def check_symbols(name: str, symbols, n_symbols: float, *axes: str | int) -> None:
    """Raise a ValueError unless :func:`check_tensor` finds integers 0..n_symbols-1."""
    check_tensor(name, symbols, "integers", *axes)
    wrong = (symbols < 0) | (symbols >= n_symbols)
    if wrong.any():
        one, most = symbols[wrong][0].item(), n_symbols - 1
        raise ValueError(f"{name} must not hold symbol {one}, outside 0..{most}")
