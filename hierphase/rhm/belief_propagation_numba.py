"""Belief propagation on the CPU: numba kernels that fuse gather, product, sum and normalisation.

Nodes are handled in blocks of ``LANES``, copied to
a scratch (symbol, lane) layout that stays in the first-level cache: the loop over the rules then
has scalar indices outside and contiguous lanes inside, which the compiler vectorises. A message
is scaled so that its largest entry is 1. The kernels release the interpreter lock; blocks are
shared among ``torch.get_num_threads()`` threads, which wait for nobody while they work. The threads
of a parallel region of PyTorch wait for each other, 8 ms each time where other processes keep the
cores busy: what is not a kernel runs in one (:func:`one_thread`).
"""

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numba
import numpy as np
import torch

from hierphase.rhm.belief_propagation_torch import PROBABILITY, SumProduct

LANES = 64
_NEIGHBOURS = 16
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


@dataclass(frozen=True)
class FusedSumProduct(SumProduct):
    """The steps of :class:`hierphase.rhm.belief_propagation_torch.SumProduct` on CPU, fused."""

    def up_level(self, children, rules):
        """See :meth:`hierphase.rhm.belief_propagation_torch.SumProduct.up_level`."""
        n, nodes = children.shape[:2]
        up = children.new_empty(n, nodes, len(rules))
        scale = children.new_empty(n, nodes)
        arrays = _rows(children), _index(rules), _rows(up), _rows(scale)
        _share(_up_level, n * nodes, rules.numel(), arrays)
        return up, scale

    def down_level(self, down, children, rules, keep):
        """See :meth:`hierphase.rhm.belief_propagation_torch.SumProduct.down_level`."""
        n, nodes, s, v = children.shape
        marginals = torch.empty_like(children)
        out = torch.empty_like(children) if keep else children.new_empty(n, 0, s, v)
        overlap = children.new_empty(n, nodes, s)
        given = _rows(down), _rows(children), _index(rules)
        arrays = (*given, _rows(out), _rows(marginals), _rows(overlap))
        _share(_down_level, n * nodes, 3 * rules.numel(), arrays)
        return (out if keep else None), marginals, overlap

    def choose_level(self, symbols, children, rules, uniform):
        """See :meth:`hierphase.rhm.belief_propagation_torch.SumProduct.choose_level`."""
        chosen = symbols.new_empty(*symbols.shape, rules.shape[-1])
        total = torch.empty_like(uniform)
        given = _rows(symbols, 3), _rows(children), _index(rules), _rows(uniform, 3)
        arrays = (*given, _rows(chosen, 3), _rows(total, 3))
        cost = len(symbols) * rules[0].numel()
        _share(_choose_level, children.shape[0] * children.shape[1], cost, arrays)
        return chosen, total


FUSED = FusedSumProduct(**vars(PROBABILITY))


def _rows(tensor: torch.Tensor, n_leading: int = 2) -> np.ndarray:
    """View as numpy, the leading axes flattened."""
    return tensor.flatten(0, n_leading - 1).numpy()


def _index(rules: torch.Tensor) -> np.ndarray:
    """Rules as unsigned numbers: numba then spares the test for negative indices."""
    return rules.numpy().astype(np.uint32)


def _share(kernel, n_rows: int, cost_per_row: int, arrays: tuple) -> None:
    """Run ``kernel`` over all rows, in as many threads as torch may use."""
    threads = _scope.threads
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
        for i in range(s):
            _gather(children[start : start + width, i], width, x[i])
        largest[:] = 0
        for symbol in range(n_symbols):
            y[symbol] = 0
            for r in range(m):
                first, last = rules[symbol, r, 0], rules[symbol, r, s - 1]
                if s == 2:  # the usual case, spared the copy
                    for lane in range(LANES):
                        y[symbol, lane] += x[0, first, lane] * x[1, last, lane]
                    continue
                _copy(x[0, first], product)
                for i in range(1, s - 1):
                    middle = rules[symbol, r, i]
                    for lane in range(LANES):
                        product[lane] *= x[i, middle, lane]
                for lane in range(LANES):
                    y[symbol, lane] += product[lane] * x[s - 1, last, lane]
            _raise_to(largest, y[symbol])
        scale[start : start + width] = largest[:width]
        _invert(largest)
        for symbol in range(n_symbols):
            for lane in range(LANES):
                y[symbol, lane] *= largest[lane]
        _scatter(y, width, up[start : start + width])


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
        for i in range(s):
            _gather(children[start : start + width, i], width, x[i])
        _gather(down[start : start + width], width, y)
        z[:] = 0
        for symbol in range(n_symbols):
            _copy(y[symbol], prefix[0])
            for r in range(m):
                first, last = rules[symbol, r, 0], rules[symbol, r, s - 1]
                # prefix[i] = down(y) prod_{j < i} up(x_j),  suffix = prod_{j > i} up(x_j)
                for i in range(1, s):
                    before = rules[symbol, r, i - 1]
                    for lane in range(LANES):
                        prefix[i, lane] = prefix[i - 1, lane] * x[i - 1, before, lane]
                for lane in range(LANES):
                    z[s - 1, last, lane] += prefix[s - 1, lane]
                    suffix[lane] = x[s - 1, last, lane]
                for i in range(s - 2, 0, -1):
                    here = rules[symbol, r, i]
                    for lane in range(LANES):
                        z[i, here, lane] += prefix[i, lane] * suffix[lane]
                        suffix[lane] *= x[i, here, lane]
                for lane in range(LANES):
                    z[0, first, lane] += prefix[0, lane] * suffix[lane]
        for i in range(s):
            largest[:] = 0
            common[:] = 0
            for a in range(v):
                _raise_to(largest, z[i, a])
                for lane in range(LANES):
                    x[i, a, lane] *= z[i, a, lane]
                    common[lane] += x[i, a, lane]
            _invert(largest)
            for lane in range(width):
                overlap[start + lane, i] = common[lane] * largest[lane]
            _invert(common)
            for a in range(v):
                for lane in range(LANES):
                    x[i, a, lane] *= common[lane]
                    z[i, a, lane] *= largest[lane]
            _scatter(x[i], width, marginals[start : start + width, i])
            if keep:
                _scatter(z[i], width, out[start : start + width, i])


@_jit
def _choose_level(begin, end, symbols, children, rules, uniform, chosen, total):
    n_symbols, m, s = rules.shape
    # Float64, cumulative. All draws of a few neighbouring nodes, whose numbers share cache lines,
    # look up the weights that one of them has found, unless there are fewer draws than symbols.
    few = len(symbols) < n_symbols * len(children)
    weights = np.empty((1, 1, m) if few else (_NEIGHBOURS, n_symbols, m))
    for start in range(begin, end, _NEIGHBOURS):
        width = min(_NEIGHBOURS, end - start)
        if not few:
            weights[:, :, 0] = -1
        for first in range(start, len(symbols), len(children)):
            for node in range(width):
                row = first + node
                symbol, x = symbols[row], children[start + node]
                weight = weights[0, 0] if few else weights[node, symbol]
                if few or weight[0] < 0:
                    cumulative = 0.0
                    for r in range(m):
                        product = x[0, rules[symbol, r, 0]]
                        for i in range(1, s):
                            product *= x[i, rules[symbol, r, i]]
                        cumulative += product
                        weight[r] = cumulative
                total[row] = weight[m - 1]
                # The first rule whose cumulative weight exceeds the target; rounding of the target
                # up to the whole weight must not select a rule of weight zero.
                target = uniform[row] * weight[m - 1]
                r, last = 0, m - 1
                while r < last:
                    middle = (r + last) >> 1
                    beyond = weight[middle] <= target and weight[middle] < weight[m - 1]
                    r, last = (middle + 1, last) if beyond else (r, middle)
                for i in range(s):
                    chosen[row, i] = rules[symbol, r, i]


@_jit
def _gather(messages, width, lanes):
    """Copy messages (width, symbols) to lanes (symbols, LANES)."""
    for lane in range(width):
        for a in range(len(lanes)):
            lanes[a, lane] = messages[lane, a]


@_jit
def _scatter(lanes, width, messages):
    """Copy lanes (symbols, LANES) to messages (width, symbols)."""
    for lane in range(width):
        for a in range(len(lanes)):
            messages[lane, a] = lanes[a, lane]


@_jit
def _copy(source, target):
    for lane in range(LANES):
        target[lane] = source[lane]


@_jit
def _raise_to(largest, values):
    for lane in range(LANES):
        largest[lane] = values[lane] if values[lane] > largest[lane] else largest[lane]


@_jit
def _invert(values):
    """1/x in place; zero, the sum of a message that allows nothing, stays zero."""
    for lane in range(LANES):
        values[lane] = 1 / values[lane] if values[lane] > 0 else 0
