"""Belief propagation in plain PyTorch, for any device, in two semirings.

``PROBABILITY`` multiplies and adds messages, as :mod:`hierphase.rhm.belief_propagation_numba` does
faster on the CPU. ``LOGARITHM`` adds and log-sum-exps their logarithms: slower, and without any
underflow; it serves the observations that the other cannot represent. Messages, scales, overlaps
and weights are then logarithms; marginals never are.
"""

from functools import reduce

import torch


class SumProduct:
    """The steps of belief propagation between two levels, given how messages add and multiply."""

    _times = staticmethod(torch.mul)
    _number = staticmethod(torch.positive)  # of the weights of rules

    def over(self, numerator, denominator):
        """Divide two messages; a message divided by zero is zero."""
        return numerator / torch.where(denominator > 0, denominator, 1)

    def scaled(self, message):
        """Bring the largest entry of a message to 1, unless all are zero."""
        return self.over(message, message.amax(-1, keepdim=True))

    def plus(self, message):
        """Sum messages over the last axis."""
        return message.sum(-1)

    def scatter(self, message, index, size):
        """Add messages (..., size in) by an index (size in) into (..., size)."""
        return message.new_zeros(*message.shape[:-1], size).index_add_(-1, index, message)

    def logarithm(self, message):
        """Of a message, scales or beliefs: natural logarithms, entry by entry."""
        return message.log()

    def exponential(self, message):
        """Numbers proportional to probabilities, one above zero unless the message allows none."""
        return message

    def table(self, rules, weights, like):
        """Rules (symbols, m, s) of a level and their weights (m,), as the steps take them.

        Here the weights are those of each symbol, (symbols, m).
        """
        return rules.to(like.device), self._number(weights).to(like).repeat(len(rules), 1)

    def upward(self, leaf_up, tables):
        r"""Upward messages of all levels, and what was taken out of them.

        :math:`\nu_\uparrow(y) = \sum_{y \to (x_1 \dots x_s)} w \prod_i \nu_\uparrow(x_i)`,
        w the weight of the rule. Each is scaled to a largest entry of 1 (all zero where no rule is
        possible); that largest entry before scaling is its scale.

        Args:
            leaf_up: (n, d, v).
            tables: of each level from 1 to L, as :meth:`table` gives them.

        Returns:
            messages, L+1 tensors (n, nodes, symbols); scales (n, nodes of levels 1 to L together).
        """
        up, scales = [leaf_up], []
        for rules, weights in tables:
            children = up[-1].unflatten(1, (-1, rules.shape[-1]))
            total = self.plus(reduce(self._times, child_messages(children, rules), weights))
            scales.append(total.amax(-1))
            up.append(self.over(total, scales[-1][..., None]))
        return up, torch.cat(scales, 1)

    def downward(self, up, tables):
        r"""Marginals of all levels, from the messages down to all children of each.

        .. math::
            \nu_\downarrow(x_i) = \sum_{y \to (\dots x_i \dots)} w\, \nu_\downarrow(y)
            \prod_{j \neq i} \nu_\uparrow(x_j)

        Args:
            up: upward messages, as :meth:`upward` gives them.
            tables: likewise.

        Returns:
            marginals, L+1 tensors (n, nodes, symbols), and the smallest overlap of down and up
            messages, (n,): the sum of down times up, the largest entry of each 1.
        """
        # a message that is 1 for every symbol says nothing
        marginals, down, lowest = [self.normalise(up[-1])], self.scaled(torch.ones_like(up[-1])), []
        for level in range(len(tables) - 1, -1, -1):
            rules, weights = tables[level]
            children = up[level].unflatten(1, (-1, rules.shape[-1]))
            factors, out = child_messages(children, rules), []
            parent = self._times(down[..., None], weights)
            for i in range(len(factors)):
                weight = reduce(self._times, [parent, *factors[:i], *factors[i + 1 :]]).flatten(2)
                out.append(self.scatter(weight, rules[..., i].flatten(), children.shape[-1]))
            out = self.scaled(torch.stack(out, 2))
            down, joint = out.flatten(1, 2), self._times(out, children)
            marginals.insert(0, self.normalise(joint).flatten(1, 2))
            lowest.append(self.plus(joint).flatten(1).amin(1))
        return marginals, torch.stack(lowest).amin(0)

    def choose_level(self, symbols, children, rules, weights, uniform):
        """Draw, for every node of known symbol, one of its rules with weight w prod_i up(x_i).

        Args:
            symbols: (k, n, nodes) symbols of the parents.
            children: (n, nodes, s, v) upward messages of the children.
            rules: (symbols, m, s).
            weights: of these rules, as :meth:`table` gives them.
            uniform: (k, n, nodes) numbers in [0, 1), one a draw.

        Returns:
            symbols of the children (k, n, nodes, s), and the total weight (k, n, nodes).
        """
        candidates = rules[symbols]  # (k, n, nodes, m, s)
        up = children[None, :, :, None].take_along_dim(candidates[..., None], -1)[..., 0]
        weight = reduce(self._times, up.unbind(-1), weights[symbols])
        choice = choose(self.normalise(weight), uniform)[..., None, None]
        return candidates.take_along_dim(choice, -2).squeeze(-2), self.plus(weight)

    def normalise(self, message):
        """Probabilities (..., size), summing to 1, that are proportional to ``message``."""
        weight = self.exponential(message)
        return PROBABILITY.over(weight, weight.sum(-1, keepdim=True))


class LogSumProduct(SumProduct):
    """The same steps on the logarithms of messages."""

    _times = staticmethod(torch.add)
    _number = staticmethod(torch.log)

    def over(self, numerator, denominator):
        """See :meth:`SumProduct.over`."""
        return numerator - denominator.clamp(min=torch.finfo(denominator.dtype).min)

    def plus(self, message):
        """See :meth:`SumProduct.plus`."""
        return message.logsumexp(-1)

    def scatter(self, message, index, size):
        """See :meth:`SumProduct.scatter`."""
        empty = message.new_full((*message.shape[:-1], size), -torch.inf)
        largest = empty.scatter_reduce(-1, index.expand_as(message), message, "amax")
        finite = largest.clamp(min=torch.finfo(message.dtype).min)
        relative = (message - finite[..., index]).exp()
        return super().scatter(relative, index, size).log() + finite

    def logarithm(self, message):
        """See :meth:`SumProduct.logarithm`; they are logarithms already."""
        return message

    def exponential(self, message):
        """See :meth:`SumProduct.exponential`."""
        return self.scaled(message).exp()


PROBABILITY = SumProduct()
LOGARITHM = LogSumProduct()


def child_messages(children, rules):
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
