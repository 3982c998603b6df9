"""Belief propagation in plain PyTorch, for any device, in two semirings.

``PROBABILITY`` multiplies and adds messages, as :mod:`hierphase.rhm.belief_propagation_numba` does
faster on the CPU. ``LOGARITHM`` adds and log-sum-exps their logarithms: slower, and without any
underflow; it serves the observations that the other cannot represent. Messages, scales, overlaps
and weights are then logarithms; marginals never are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SumProduct:
    """The steps of belief propagation between two levels, given how messages add and multiply.

    Args:
        unit: the entry of a message that says nothing.
        times: multiplies two messages.
        over: divides two messages; a message divided by zero is zero.
        plus: sums messages over the last axis.
        scatter: adds messages (..., size in) by an index (size in) into (..., size).
        exponential: turns messages into numbers proportional to probabilities, above zero for at
            least one symbol unless the message allows none.
    """

    unit: float
    times: Callable
    over: Callable
    plus: Callable
    scatter: Callable
    exponential: Callable

    def up_level(self, children, rules):
        """up(y) = sum over rules of y of prod_i up(x_i), for all parents of one level.

        Args:
            children: (n, nodes, s, v) upward messages of the children.
            rules: (symbols, m, s).

        Returns:
            messages (n, nodes, symbols), each scaled to a largest entry of 1 (all zero where no
            rule is possible), and that largest entry before scaling, (n, nodes).
        """
        total = self.plus(self._product(_factors(children, rules)))
        scale = total.amax(-1)
        return self.over(total, scale[..., None]), scale

    def down_level(self, down, children, rules, keep):
        """down(x_i) = sum over rules with i-th entry x_i of down(y) prod_{j != i} up(x_j).

        Args:
            down: (n, nodes, symbols) downward messages of the parents.
            children: (n, nodes, s, v) upward messages of the children.
            rules: (symbols, m, s).
            keep: whether the children's downward messages are wanted (not at the leaves).

        Returns:
            downward messages of the children (n, nodes, s, v), or None; their marginals, same
            shape; overlap (n, nodes, s), the sum of down times up, the largest entry of each 1.
        """
        factors = _factors(children, rules)
        parent = down[..., None].expand_as(factors[0])
        out = []
        for i in range(len(factors)):
            weight = self._product([parent, *factors[:i], *factors[i + 1 :]])
            out.append(self.scatter(weight.flatten(2), rules[..., i].flatten(), children.shape[-1]))
        out = torch.stack(out, 2)
        out = self.over(out, out.amax(-1, keepdim=True))
        joint = self.times(out, children)
        return (out if keep else None), self.normalise(joint), self.plus(joint)

    def choose_level(self, symbols, children, rules, uniform):
        """Draw, for every node of known symbol, one of its rules with weight prod_i up(x_i).

        Args:
            symbols: (k, n, nodes) symbols of the parents.
            children: (n, nodes, s, v) upward messages of the children.
            rules: (symbols, m, s).
            uniform: (k, n, nodes) numbers in [0, 1), one a draw.

        Returns:
            symbols of the children (k, n, nodes, s), and the total weight (k, n, nodes).
        """
        candidates = rules[symbols]  # (k, n, nodes, m, s)
        sample, node, child = (
            torch.arange(size, device=rules.device) for size in children.shape[:3]
        )
        place = (sample[:, None, None, None], node[:, None, None], child)
        weight = self._product(children[(*place, candidates)].unbind(-1))
        choice = choose(self.normalise(weight), uniform)
        choice = choice[..., None, None].expand(*choice.shape, 1, len(child))
        return candidates.gather(-2, choice).squeeze(-2), self.plus(weight)

    def normalise(self, message):
        """Probabilities (..., size), summing to 1, that are proportional to ``message``."""
        weight = self.exponential(message)
        return _divide(weight, weight.sum(-1, keepdim=True))

    def _product(self, factors):
        product = factors[0]
        for factor in factors[1:]:
            product = self.times(product, factor)
        return product


def _factors(children, rules):
    """Message of each child at its symbol in each rule: s tensors (n, nodes, symbols, m)."""
    return [children[:, :, i][..., rules[..., i]] for i in range(rules.shape[-1])]


def choose(weight: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Index along the last axis of ``weight``, drawn in proportion to it.

    The first index whose cumulative weight exceeds ``uniform`` times the whole; never one of
    weight zero, also where that product is rounded up to the whole.

    Args:
        weight: (..., size), non-negative.
        uniform: (...) numbers in [0, 1).
    """
    cumulative = weight.double().cumsum(-1)
    whole = cumulative[..., -1:]
    passed = (cumulative <= uniform[..., None].double() * whole) & (cumulative < whole)
    return passed.sum(-1)


def _divide(numerator, denominator):
    return numerator / torch.where(denominator > 0, denominator, 1)


def _subtract(numerator, denominator):
    return numerator - denominator.clamp(min=torch.finfo(denominator.dtype).min)


def _scatter_add(message, index, size):
    return message.new_zeros(*message.shape[:-1], size).index_add_(-1, index, message)


def _scatter_logsumexp(message, index, size):
    empty = message.new_full((*message.shape[:-1], size), -torch.inf)
    largest = empty.scatter_reduce(-1, index.expand_as(message), message, "amax")
    finite = largest.clamp(min=torch.finfo(message.dtype).min)
    return _scatter_add((message - finite[..., index]).exp(), index, size).log() + finite


PROBABILITY = SumProduct(
    unit=1.0, times=torch.mul, over=_divide, plus=lambda message: message.sum(-1),
    scatter=_scatter_add, exponential=lambda message: message,
)  # fmt: skip
LOGARITHM = SumProduct(
    unit=0.0, times=torch.add, over=_subtract, plus=lambda message: message.logsumexp(-1),
    scatter=_scatter_logsumexp,
    exponential=lambda message: _subtract(message, message.amax(-1, keepdim=True)).exp(),
)  # fmt: skip
