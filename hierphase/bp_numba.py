"""Belief propagation on the CPU: numba kernels that fuse gather, product, sum and normalisation.

Nodes are handled in blocks of ``LANES``, copied to
a scratch (symbol, lane) layout that stays in the first-level cache: the loop over the rules then
has scalar indices outside and contiguous lanes inside, which the compiler vectorises. A message
is scaled so that its largest entry is 1. The kernels release the interpreter lock; blocks are
shared among ``torch.get_num_threads()`` threads.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
import torch

from hierphase.bp_torch import PROBABILITY, SumProduct

LANES = 64
# Below this number of multiplications, starting threads costs more than it saves.
_WORTH_THREADS = 1 << 21

# Reordering sums is allowed; NaN and infinity keep their meaning.
_jit = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
)


@dataclass(frozen=True)
class FusedSumProduct(SumProduct):
    """The three steps of :class:`hierphase.bp_torch.SumProduct` for CPU tensors, fused."""

    def up_level(self, children, rules):
        """See :meth:`hierphase.bp_torch.SumProduct.up_level`."""
        n, nodes = children.shape[:2]
        up = children.new_empty(n, nodes, len(rules))
        scale = children.new_empty(n, nodes)
        arrays = (_rows(children, 2), _index(rules), _rows(up, 2), _rows(scale, 2))
        _share(_up_level, n * nodes, rules.numel(), arrays)
        return up, scale

    def down_level(self, down, children, rules, keep):
        """See :meth:`hierphase.bp_torch.SumProduct.down_level`."""
        n, nodes, s, v = children.shape
        marginals = torch.empty_like(children)
        out = torch.empty_like(children) if keep else children.new_empty(n, 0, s, v)
        overlap = children.new_empty(n, nodes, s)
        arrays = (
            _rows(down, 2),
            _rows(children, 2),
            _index(rules),
            _rows(out, 2),
            _rows(marginals, 2),
            _rows(overlap, 2),
        )
        _share(_down_level, n * nodes, 3 * rules.numel(), arrays)
        return (out if keep else None), marginals, overlap

    def choose_level(self, symbols, children, rules, uniform):
        """See :meth:`hierphase.bp_torch.SumProduct.choose_level`."""
        chosen = symbols.new_empty(*symbols.shape, rules.shape[-1])
        total = torch.empty_like(uniform)
        arrays = (
            _rows(symbols, 3),
            _rows(children, 2),
            _index(rules),
            _rows(uniform, 3),
            _rows(chosen, 3),
            _rows(total, 3),
        )
        _share(_choose_level, symbols.numel(), rules[0].numel(), arrays)
        return chosen, total


FUSED = FusedSumProduct(**vars(PROBABILITY))


def _rows(tensor: torch.Tensor, n_leading: int) -> np.ndarray:
    """View as numpy, the leading axes flattened."""
    return tensor.flatten(0, n_leading - 1).numpy()


def _index(rules: torch.Tensor) -> np.ndarray:
    """Rules as unsigned numbers: numba then spares the test for negative indices."""
    return rules.numpy().astype(np.uint32)


def _share(kernel, n_rows: int, cost_per_row: int, arrays: tuple) -> None:
    """Run ``kernel`` over all rows, in as many threads as torch may use."""
    threads = torch.get_num_threads()
    if threads == 1 or n_rows * cost_per_row < _WORTH_THREADS:
        kernel(0, n_rows, *arrays)
        return
    n_blocks = -(-n_rows // LANES)
    edges = [min(n_rows, LANES * (n_blocks * i // threads)) for i in range(threads)] + [n_rows]
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(kernel, a, b, *arrays) for a, b in pairwise(edges)]
        for part in parts:
            part.result()


@_jit
def _up_level(begin, end, children, rules, up, scale):
    s, v = children.shape[1:]
    n_symbols, m, _ = rules.shape
    x = np.ones((s, v, LANES), children.dtype)
    y = np.empty((n_symbols, LANES), children.dtype)
    product = np.empty(LANES, children.dtype)
    largest = np.empty(LANES, children.dtype)
    for start in range(begin, end, LANES):
        width = min(LANES, end - start)
        _gather(children, start, width, x)
        largest[:] = 0
        for symbol in range(n_symbols):
            total = y[symbol]
            total[:] = 0
            for r in range(m):
                left = x[0, rules[symbol, r, 0]]
                for i in range(1, s - 1):
                    factor = x[i, rules[symbol, r, i]]
                    for lane in range(LANES):
                        product[lane] = left[lane] * factor[lane]
                    left = product
                right = x[s - 1, rules[symbol, r, s - 1]]
                for lane in range(LANES):
                    total[lane] += left[lane] * right[lane]
            for lane in range(LANES):
                largest[lane] = max(largest[lane], total[lane])
        for lane in range(width):
            scale[start + lane] = largest[lane]
            inverse = 1 / largest[lane] if largest[lane] > 0 else largest[lane]
            for symbol in range(n_symbols):
                up[start + lane, symbol] = y[symbol, lane] * inverse


@_jit
def _down_level(begin, end, down, children, rules, out, marginals, overlap):
    s, v = children.shape[1:]
    n_symbols, m, _ = rules.shape
    keep = len(out) > 0
    x = np.ones((s, v, LANES), children.dtype)
    y = np.ones((n_symbols, LANES), children.dtype)
    z = np.empty((s, v, LANES), children.dtype)
    prefix = np.empty((s, LANES), children.dtype)
    suffix = np.empty(LANES, children.dtype)
    largest = np.empty(LANES, children.dtype)
    common = np.empty(LANES, children.dtype)
    for start in range(begin, end, LANES):
        width = min(LANES, end - start)
        _gather(children, start, width, x)
        for lane in range(width):
            for symbol in range(n_symbols):
                y[symbol, lane] = down[start + lane, symbol]
        z[:] = 0
        for symbol in range(n_symbols):
            for r in range(m):
                rule = rules[symbol, r]
                # prefix[i] = down(y) prod_{j <= i} up(x_j), kept for the middle positions
                left = y[symbol]
                for i in range(s - 2):
                    factor = x[i, rule[i]]
                    here = prefix[i]
                    for lane in range(LANES):
                        here[lane] = left[lane] * factor[lane]
                    left = here
                target = z[s - 1, rule[s - 1]]
                factor = x[s - 2, rule[s - 2]]
                for lane in range(LANES):
                    target[lane] += left[lane] * factor[lane]
                right = x[s - 1, rule[s - 1]]
                for i in range(s - 2, 0, -1):
                    target = z[i, rule[i]]
                    factor = x[i, rule[i]]
                    here = prefix[i - 1]
                    for lane in range(LANES):
                        target[lane] += here[lane] * right[lane]
                        suffix[lane] = right[lane] * factor[lane]
                    right = suffix
                target = z[0, rule[0]]
                factor = y[symbol]
                for lane in range(LANES):
                    target[lane] += factor[lane] * right[lane]
        for i in range(s):
            largest[:] = 0
            common[:] = 0
            for a in range(v):
                for lane in range(LANES):
                    largest[lane] = max(largest[lane], z[i, a, lane])
                    common[lane] += z[i, a, lane] * x[i, a, lane]
            for lane in range(width):
                inverse = 1 / largest[lane] if largest[lane] > 0 else largest[lane]
                overlap[start + lane, i] = common[lane] * inverse
                normaliser = 1 / common[lane] if common[lane] > 0 else common[lane]
                for a in range(v):
                    marginals[start + lane, i, a] = z[i, a, lane] * x[i, a, lane] * normaliser
                if keep:
                    for a in range(v):
                        out[start + lane, i, a] = z[i, a, lane] * inverse


@_jit
def _choose_level(begin, end, symbols, children, rules, uniform, chosen, total):
    n_rows = len(children)
    _, m, s = rules.shape
    weight = np.empty(m)  # float64, cumulative
    for row in range(begin, end):
        x = children[row % n_rows]
        symbol = symbols[row]
        cumulative = 0.0
        for r in range(m):
            product = x[0, rules[symbol, r, 0]]
            for i in range(1, s):
                product *= x[i, rules[symbol, r, i]]
            cumulative += product
            weight[r] = cumulative
        total[row] = cumulative
        # The first rule whose cumulative weight exceeds the target; rounding of the target up to
        # the whole weight must not select a rule of weight zero.
        target = uniform[row] * cumulative
        r = 0
        while r < m - 1 and weight[r] <= target and weight[r] < cumulative:
            r += 1
        for i in range(s):
            chosen[row, i] = rules[symbol, r, i]


@_jit
def _gather(children, start, width, x):
    s, v = children.shape[1:]
    for i in range(s):
        for lane in range(width):
            for a in range(v):
                x[i, a, lane] = children[start + lane, i, a]
