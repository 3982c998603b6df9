"""Belief propagation on the CPU: numba kernels that fuse gather, product, sum and normalisation.

Nodes are handled in blocks of ``LANES``, copied to a scratch (symbol, lane) layout that stays in
the first-level cache: the loop over the rules then has scalar indices outside and contiguous lanes
inside, which the compiler vectorises. A message is scaled so that its largest entry is 1. The
kernels release the interpreter lock; blocks are shared among ``torch.get_num_threads()`` threads,
which wait for nobody while they work. The threads of a parallel region of PyTorch wait for each
other, 8 ms each time where other processes keep the cores busy: what is not a kernel runs in one
(:func:`one_thread`).
"""

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numba
import numpy as np
import torch

from hierphase.rhm.belief_propagation_torch import SumProduct

LANES = 64
# Below this number of multiplications, starting threads costs more than it saves.
_WORTH_THREADS = 1 << 21
_TORCH = ctypes.CDLL(torch._C.__file__)  # finds what it is linked to as well
_set_openmp = getattr(_TORCH, "omp_set_num_threads", int)
_set_mkl = getattr(_TORCH, "MKL_Set_Num_Threads_Local", int)  # gives the number before
_scope = threading.local()


@contextmanager
def one_thread():
    """In this scope (or decorated function) PyTorch opens no parallel regions.

    OpenMP and MKL (which does exp and log) keep a number of threads for each calling thread: that
    of no other changes.
    """
    outer, threads = getattr(_scope, "threads", None), torch.get_num_threads()
    _scope.threads = outer or threads
    mkl = _set_mkl(1)
    _set_openmp(1)
    try:
        yield
    finally:
        _set_openmp(threads)
        _set_mkl(mkl)
        _scope.threads = outer


def njit(function, **options):
    """``numba.njit``; what it compiles is kept, where there is a folder that can be written."""
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache
        return numba.njit(**options)(function)


# Reordering sums is allowed; NaN and infinity keep their meaning.
_jit = partial(njit, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


class FusedSumProduct(SumProduct):
    """The steps of :class:`hierphase.rhm.belief_propagation_torch.SumProduct` on CPU, fused."""

    def table(self, rules, weights, like):
        """As arrays; the rules unsigned, which spares numba the test for negative indices."""
        return rules.numpy().view(np.uint64), weights.to(like.dtype).numpy()

    def upward(self, leaf_up, tables):
        """See :meth:`hierphase.rhm.belief_propagation_torch.SumProduct.upward`."""
        n, up, scales = len(leaf_up), [leaf_up.contiguous().numpy()], []
        for rules, weights in tables:
            children = up[-1].reshape(-1, rules.shape[-1], up[-1].shape[-1])
            message = np.empty((len(children), len(rules)), children.dtype)
            scales.append(np.empty(len(children), children.dtype))
            _share(_up_level, rules.size, rules, weights, children, message, scales[-1])
            up.append(message.reshape(n, -1, len(rules)))
        scales = np.concatenate([scale.reshape(n, -1) for scale in scales], 1)
        return [torch.from_numpy(message) for message in up], torch.from_numpy(scales)

    def downward(self, up, tables):
        """See :meth:`hierphase.rhm.belief_propagation_torch.SumProduct.downward`."""
        marginals, overlaps, n = [self.normalise(up[-1])], [], len(up[0])
        down = np.ones_like(up[-1][:, 0].numpy())
        for level in range(len(tables) - 1, -1, -1):
            messages, (rules, weights) = up[level].numpy(), tables[level]
            children = messages.reshape(-1, rules.shape[-1], messages.shape[-1])
            # the downward messages of the leaves are not wanted
            below = np.empty_like(children if level else children[:0])
            marginal = np.empty_like(children)
            overlap = np.empty(children.shape[:2], children.dtype)
            arrays = children, down, below, marginal, overlap
            _share(_down_level, 3 * rules.size, rules, weights, *arrays)
            down = below.reshape(-1, messages.shape[-1])
            marginals.insert(0, torch.from_numpy(marginal.reshape(messages.shape)))
            overlaps.append(overlap.reshape(n, -1))
        return marginals, torch.from_numpy(np.concatenate(overlaps, 1).min(1))

    def choose_level(self, symbols, children, rules, weights, uniform):
        """See :meth:`hierphase.rhm.belief_propagation_torch.SumProduct.choose_level`."""
        chosen = symbols.new_empty(*symbols.shape, rules.shape[-1])
        total = torch.empty_like(uniform)
        of_rows = (children, *(x.flatten(0, 1) for x in (symbols, uniform, chosen, total)))
        arrays = [x.flatten(0, 1).numpy() for x in of_rows]
        _share(_choose_level, len(symbols) * rules[0].size, rules, weights, *arrays)
        return chosen, total


FUSED = FusedSumProduct()


def _share(kernel, cost: int, rules, weights, *arrays: np.ndarray) -> None:
    """Run ``kernel`` over all nodes, in as many threads as torch may use.

    Args:
        kernel: takes the first node, the one after the last, rules, weights and arrays.
        cost: multiplications for one node.
        rules: of the level.
        weights: of a symbol's rules.
        arrays: the first axis of the first of them is that of the nodes of all samples.
    """
    n_rows, threads = len(arrays[0]), _scope.threads
    if threads == 1 or n_rows * cost < _WORTH_THREADS:
        kernel(0, n_rows, rules, weights, *arrays)
        return
    edges = [n_rows * i // threads // LANES * LANES for i in range(threads)] + [n_rows]
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(lambda *ends: kernel(*ends, rules, weights, *arrays), edges, edges[1:])
        list(parts)


@_jit
def _up_level(begin, end, rules, weights, children, up, scale):
    s, v = children.shape[1:]
    n_symbols, m, _ = rules.shape
    x = np.ones((s, v, LANES), children.dtype)
    y = np.empty((n_symbols, LANES), children.dtype)
    product = np.empty(LANES, children.dtype)
    largest = np.empty(LANES, children.dtype)
    for start in range(begin, end, LANES):
        stop = min(start + LANES, end)
        for i in range(s):
            _turn(children[start:stop, i], x[i])
        largest[:] = 0
        for symbol in range(n_symbols):
            y[symbol] = 0
            for r in range(m):
                first, last = rules[symbol, r, 0], rules[symbol, r, s - 1]
                np.multiply(x[0, first], weights[r], product)
                for i in range(1, s - 1):
                    np.multiply(product, x[i, rules[symbol, r, i]], product)
                for lane in range(LANES):
                    y[symbol, lane] += product[lane] * x[s - 1, last, lane]
            np.maximum(largest, y[symbol], largest)
        scale[start:stop] = largest[: stop - start]
        _invert(largest)
        y *= largest
        _turn(y, up[start:stop])


@_jit
def _down_level(begin, end, rules, weights, children, down, out, marginals, overlap):
    s, v = children.shape[1:]
    n_symbols, m, _ = rules.shape
    keep, weighted = len(out) > 0, weights.min() < weights.max()
    x = np.ones((s, v, LANES), children.dtype)
    y = np.ones((n_symbols, LANES), children.dtype)
    z = np.empty((s, v, LANES), children.dtype)
    prefix = np.empty((s, LANES), children.dtype)
    suffix = np.empty(LANES, children.dtype)
    largest = np.empty(LANES, children.dtype)
    common = np.empty(LANES, children.dtype)
    for start in range(begin, end, LANES):
        stop = min(start + LANES, end)
        for i in range(s):
            _turn(children[start:stop, i], x[i])
        _turn(down[start:stop], y)
        z[:] = 0
        for symbol in range(n_symbols):
            for r in range(m):
                if weighted or r == 0:
                    np.multiply(y[symbol], weights[r], prefix[0])
                first, last = rules[symbol, r, 0], rules[symbol, r, s - 1]
                if s == 2:  # the usual case, in one loop
                    for lane in range(LANES):
                        z[0, first, lane] += prefix[0, lane] * x[1, last, lane]
                        z[1, last, lane] += prefix[0, lane] * x[0, first, lane]
                    continue
                # prefix[i] = down(y) prod_{j < i} up(x_j),  suffix = prod_{j > i} up(x_j)
                for i in range(1, s):
                    np.multiply(prefix[i - 1], x[i - 1, rules[symbol, r, i - 1]], prefix[i])
                np.add(z[s - 1, last], prefix[s - 1], z[s - 1, last])
                suffix[:] = x[s - 1, last]
                for i in range(s - 2, 0, -1):
                    here = rules[symbol, r, i]
                    for lane in range(LANES):
                        z[i, here, lane] += prefix[i, lane] * suffix[lane]
                        suffix[lane] *= x[i, here, lane]
                for lane in range(LANES):
                    z[0, first, lane] += prefix[0, lane] * suffix[lane]
        for i in range(s):
            np.multiply(x[i], z[i], x[i])
            largest[:] = 0
            common[:] = 0
            for a in range(v):
                np.maximum(largest, z[i, a], largest)
                np.add(common, x[i, a], common)
            _invert(largest)
            overlap[start:stop, i] = (common * largest)[: stop - start]
            _invert(common)
            np.multiply(x[i], common, x[i])
            np.multiply(z[i], largest, z[i])
            _turn(x[i], marginals[start:stop, i])
            if keep:
                _turn(z[i], out[start:stop, i])


@_jit
def _choose_level(begin, end, rules, weights, children, symbols, uniform, chosen, total):
    _, m, s = rules.shape
    weight = np.empty(m)  # cumulative, float64
    for first in range(0, len(symbols), len(children)):
        for node in range(begin, end):
            row, x, own = first + node, children[node], rules[symbols[first + node]]
            cumulative = 0.0
            for r in range(m):
                product = weights[r] * x[0, own[r, 0]]
                for i in range(1, s):
                    product *= x[i, own[r, i]]
                cumulative += product
                weight[r] = cumulative
            total[row] = cumulative
            # The first rule whose cumulative weight exceeds the target; rounding of the target
            # up to the whole weight must not select a rule of weight zero.
            target = min(uniform[row] * cumulative, np.nextafter(cumulative, -1.0))
            rule = np.searchsorted(weight, target, "right")
            for i in range(s):
                chosen[row, i] = own[rule, i]


@_jit
def _turn(source, target):
    """``target = source.T``, as far as both go: of messages (nodes, symbols) to lanes, or back."""
    n_rows, n_columns = min(len(source), target.shape[1]), min(len(target), source.shape[1])
    for column in range(n_columns):
        for row in range(n_rows):
            target[column, row] = source[row, column]


@_jit
def _invert(values):
    """1/x in place; zero, the sum of a message that allows nothing, stays zero."""
    for lane in range(LANES):
        values[lane] = 1 / values[lane] if values[lane] > 0 else 0
