r"""Exact inference on the Random Hierarchy Model by belief propagation.

Two sweeps over the tree give the marginal of every node; the upward one alone gives the evidence
and posterior samples. Up and down go the messages :math:`\nu_\uparrow` and
:math:`\nu_\downarrow`, products and sums over the rules :math:`y \to (x_1, \dots, x_s)`:

.. math::
    \nu_\uparrow(y) &\propto \sum_{y \to (x_1 \dots x_s)} w \prod_i \nu_\uparrow(x_i) \\
    \nu_\downarrow(x_i) &\propto \sum_{y \to (\dots x_i \dots)}
    w\, \nu_\downarrow(y) \prod_{j \neq i} \nu_\uparrow(x_j)

with w the weight of the rule, 1 where all are equally likely. The marginal of a node is
proportional to :math:`\nu_\uparrow \nu_\downarrow`; at the root :math:`\nu_\downarrow` is uniform.

(Mézard and Montanari, Information, Physics, and Computation, ch. 14; Sclocchi et al., arXiv
2402.16991.) On the CPU a numba kernel does the work
(:mod:`hierphase.rhm.belief_propagation_numba`), elsewhere plain PyTorch
(:mod:`hierphase.rhm.belief_propagation_torch`). Where products of messages come near the smallest
number the precision holds, the sample is done again with logarithms: results stay exact for any
input.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch

from hierphase.checks import check_known, check_memory, positive_integer
from hierphase.rhm.belief_propagation_numba import FUSED, one_thread
from hierphase.rhm.belief_propagation_torch import LOGARITHM, PROBABILITY, SumProduct, choose
from hierphase.rhm.model import RandomHierarchyModel, check_symbols, check_tensor
from hierphase.seeds import drawn

# Log-likelihoods of a tree up to this sum are known to about 1e-5 in float64.
_LARGEST_SUM = 1e11
BACKENDS = {"numba": FUSED, "torch": PROBABILITY}


@dataclass(frozen=True)
class BeliefPropagation:
    """Exact inference of all latent symbols of a model from beliefs about its leaves.

    Args:
        rhm: the model.
        backend: "numba" (CPU only), "torch" (any device), or None: numba on the CPU, else torch.

    Raises:
        ValueError: not a model, or an unknown backend.

    Example:
        >>> from hierphase import BeliefPropagation, EpsilonProcess, RandomHierarchyModel
        >>> rhm = RandomHierarchyModel(v=32, m=8, s=2, L=6)
        >>> levels = rhm.sample(16)
        >>> beliefs = EpsilonProcess(v=32).beliefs(levels[0], epsilon=0.3)
        >>> posterior = BeliefPropagation(rhm)(beliefs)
        >>> posterior.marginals[6].shape  # p(class | observation) of 16 data
        torch.Size([16, 1, 32])
        >>> known = posterior.probability_of(levels).mean(0)  # of the truth, by level
        >>> print(f"class {known[6]:.2f}, leaves {known[0]:.2f}")
        class 0.99, leaves 1.00
        >>> posterior.sample(5)[0].shape  # leaves of five draws from each
        torch.Size([5, 16, 64])
    """

    rhm: RandomHierarchyModel
    backend: str | None = None
    _known: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        if not isinstance(self.rhm, RandomHierarchyModel):
            raise ValueError(f"rhm must be a RandomHierarchyModel, got {self.rhm!r}")
        check_known("backend", self.backend or "numba", BACKENDS)

    @one_thread()
    def __call__(self, beliefs: torch.Tensor, log: bool = False) -> "Posterior":
        """Condition the model on an observation of its leaves.

        Args:
            beliefs: (n, s**L, v) float32 or float64: the likelihood of what was observed at each
                leaf, as a function of the leaf's symbol. Non-negative, any scale. Not
                differentiated through.
            log: ``beliefs`` holds log-likelihoods (-inf allowed). Needed where likelihoods of one
                leaf differ by more than the precision holds, as at very low noise. What lies more
                than 1e11 / s**L below the largest of its leaf counts as -inf: beside sums of such
                numbers even float64 loses the log-likelihoods of the other leaves.

        Returns:
            The posterior, in the dtype and on the device of ``beliefs``.

        Raises:
            ValueError: wrong shape or dtype, negative, NaN or infinite beliefs, or a sample that
                has probability zero under the model (the message names it).
        """
        check_tensor("beliefs", beliefs, "float32 or float64", "n", self.rhm.d, self.rhm.v)
        least = -torch.inf if log else 0
        lowest, highest = map(float, beliefs.aminmax())
        if not (lowest >= least and highest < torch.inf):
            wrong = ~((beliefs >= least) & (beliefs < torch.inf))
            kind = "log-likelihoods below infinity" if log else "finite and non-negative"
            place = "sample {}, leaf {}, symbol {}".format(*wrong.nonzero()[0].tolist())
            raise ValueError(f"beliefs must be {kind}, got {beliefs[wrong][0].item()} at {place}")
        backend = self.backend or ("numba" if beliefs.device.type == "cpu" else "torch")
        return Posterior(self, BACKENDS[backend], beliefs.detach(), log)

    def _tables(self, engine: SumProduct, like: torch.Tensor) -> list:
        """Rules and weights of all levels, made once for each kind of numbers."""
        if (kind := (engine, like.dtype, like.device)) not in self._known:
            weights = map(self.rhm.rule_weights, range(1, self.rhm.L + 1))
            pairs = zip(self.rhm.rules, weights, strict=True)
            self._known[kind] = [engine.table(*pair, like) for pair in pairs]
        return self._known[kind]


class Posterior:
    """What an observation says about every node of the tree; made by :class:`BeliefPropagation`.

    Attributes:
        rhm: the model.
    """

    def __init__(self, bp, engine: SumProduct, beliefs: torch.Tensor, log: bool):
        self.rhm, self._bp, self._engine = bp.rhm, bp, engine
        self._beliefs, self._log = beliefs, log
        self._rules = bp._tables(engine, beliefs)
        # Messages are scaled to a largest entry of 1, so what underflows is below tiny. Where
        # every sum stays above the cube root of tiny, that is lost in rounding.
        exact = engine is LOGARITHM
        self._safe = -torch.inf if exact else torch.finfo(beliefs.dtype).tiny ** (1 / 3)

        largest = self._largest = beliefs.amax(-1, keepdim=True)
        leaf_up = LOGARITHM.exponential(beliefs) if log else engine.over(beliefs, largest)
        self._up, self._scales = engine.upward(leaf_up, self._rules)
        self._unsafe = ~(self._scales.amin(1) >= self._safe)
        if self._unsafe.any():
            self.log_evidence  # noqa: B018 (refuses what no tree can be)

    @cached_property
    @one_thread()
    def log_evidence(self) -> torch.Tensor:
        """(n,) log p(observation) in nats, for the likelihoods as given."""
        # log probability of any one tree: its class and a rule at each of its inner nodes, but for
        # the weights of these, which are in the messages
        log_prior = -math.log(self.rhm.n_classes)
        for up, (rules, _) in zip(self._up[1:], self._rules, strict=True):
            log_prior -= up.shape[1] * math.log(rules.shape[1])
        logarithm, largest = self._engine.logarithm, self._largest
        evidence = log_prior + logarithm(self._engine.plus(self._up[-1][:, 0]).double())
        evidence += logarithm(self._scales.double()).sum(1)
        evidence += (largest if self._log else logarithm(largest)).double().sum((1, 2))
        if self._unsafe.any():
            evidence[self._unsafe] = self._exactly(self._unsafe).log_evidence
            if impossible := (evidence == -torch.inf).nonzero().flatten().tolist():
                zero = f"sample {impossible[0]} has probability zero under the model"
                why = "no data that the rules can produce agree with its beliefs"
                raise ValueError(f"{zero}, one of {len(impossible)}: {why}")
        return evidence.to(largest.dtype)

    @cached_property
    @one_thread()
    def marginals(self) -> list[torch.Tensor]:
        """List of L+1 tensors; ``[l]``: (n, s**(L-l), symbols), p(symbol | observation)."""
        marginals, lowest = self._engine.downward(self._up, self._rules)
        unsafe = self._unsafe | ~(lowest >= self._safe)
        if unsafe.any():
            for ours, exact in zip(marginals, self._exactly(unsafe).marginals, strict=True):
                ours[unsafe] = exact.to(ours.dtype)
        return marginals

    @cached_property
    @one_thread()
    def messages(self) -> list[torch.Tensor]:
        """Upward messages, L+1 float64 tensors; ``[l]``: (n, s**(L-l), symbols), largest entry 1.

        The likelihood of what was observed below a node, as a function of its symbol.
        """
        messages = [self._engine.exponential(message).double() for message in self._up]
        if self._unsafe.any():
            for ours, exact in zip(messages, self._exactly(self._unsafe).messages, strict=True):
                ours[self._unsafe] = exact
        return messages

    @one_thread()
    def probability_of(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Marginal probability of given symbols, averaged over the nodes of each level.

        Args:
            levels: as :meth:`~hierphase.rhm.model.RandomHierarchyModel.sample` returns, L+1 tensors
                (n, s**(L-l)).

        Returns:
            (n, L+1); ``[:, l]`` for level l. With the true symbols of the data, this is how well
            each level is known.

        Raises:
            ValueError: not one tensor of matching shape for each level, not integers, or a symbol
                that the level does not have (as the -1 of
                :meth:`~hierphase.rhm.model.RandomHierarchyModel.parse`).
        """
        chosen = []
        for level, (symbols, marginal) in enumerate(zip(levels, self.marginals, strict=True)):
            n, nodes, n_symbols = marginal.shape
            check_symbols(f"levels[{level}]", symbols, n_symbols, n, nodes)
            place = symbols.long().to(marginal.device)[..., None]
            chosen.append(marginal.gather(-1, place).mean((1, 2)))
        return torch.stack(chosen, 1)

    @one_thread()
    def sample(self, k: int, generator=None) -> list[torch.Tensor]:
        """Draw whole trees from the posterior: the root from its marginal, then rules downwards.

        Args:
            k: number of draws for each observation.
            generator: one generator, or a list of n, one an observation (draws then do not depend
                on which observations share a batch). None draws a fresh seed from the system.

        Returns:
            List of L+1 LongTensors; ``[l]`` of shape (k, n, s**(L-l)).

        Raises:
            ValueError: k is not a positive integer, k draws do not fit into memory, or generator
                neither one nor a list of n.
        """
        k, n = positive_integer("k", k), len(self._beliefs)
        check_memory(12 * k * n * self.rhm.n_nodes, "draws", k=k, n=n, s=self.rhm.s, L=self.rhm.L)
        # Numbers in [0, 1) that decide a draw. The symbols of a level are drawn together with the
        # rules of the level above: [l] holds one for each node of level l+1, [L] one for the class.
        nodes, like = [up.shape[1] for up in self._up[1:]] + [1], self._beliefs
        shapes = [(k, n, count) for count in nodes]
        uniform = [drawn(torch.rand, shape, generator, 1, like.dtype).to(like) for shape in shapes]
        return self._descend(uniform)

    def _descend(self, uniform):
        samples, lowest = [choose(self._engine.exponential(self._up[-1]), uniform[-1])], []
        for level in range(self.rhm.L - 1, -1, -1):
            children = self._up[level].unflatten(1, (-1, self.rhm.s))
            of_level = children, *self._rules[level], uniform[level]
            symbols, total = self._engine.choose_level(samples[0], *of_level)
            samples.insert(0, symbols.flatten(2))
            lowest.append(total.amin((0, 2)))
        unsafe = self._unsafe | ~(torch.stack(lowest).amin(0) >= self._safe)
        if unsafe.any():
            decided = self._exactly(unsafe)._descend([u[:, unsafe].double() for u in uniform])
            for ours, exact in zip(samples, decided, strict=True):
                ours[:, unsafe] = exact
        return samples

    def _exactly(self, which: torch.Tensor) -> "Posterior":
        """The same of the samples selected by the mask ``which``, from logarithms."""
        beliefs = self._beliefs[which].double()
        beliefs = beliefs if self._log else beliefs.log()
        beliefs[LOGARITHM.scaled(beliefs) < -_LARGEST_SUM / self.rhm.d] = -torch.inf
        return Posterior(self._bp, LOGARITHM, beliefs, log=False)
