"""Time and memory of belief propagation: fused numba kernels against plain PyTorch.

Prints four tables, all ratios from this one run:
1. batches 1 to 1024 at (v,m,s,L) = (32,8,2,7) and (32,8,2,10): all marginals by both backends,
   the arithmetic limit, and the peak memory of each beyond its input;
2. one sample, d = s^L leaves up to 2^17;
3. trees whose rules are of unequal probability, or whose levels differ, beside the uniform one;
   with ``--against PATH`` the fused kernels of an earlier checkout of the package, in turns;
4. posterior samples of one observation.

"Limit" is the number of multiplications and additions divided by the rate at which this machine
multiplies and adds numbers that are in its first-level cache. "Memory" is the growth of the
process's peak, from a fresh process, over the size of the upward messages of all levels.

Usage: python benchmarks/bp.py [--quick] [--against PATH]
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from functools import partial

import numba
import numpy as np
import torch

from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess
from hierphase.rhm.model import RandomHierarchyModel


def best_time(call, budget=1.0):
    """Shortest of repeated calls, in seconds, after one to warm up."""
    call()
    times = []
    while sum(times) < budget and len(times) < 50:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@numba.njit(fastmath=True)
def multiply_add(x, y, z, repetitions):
    for _ in range(repetitions):
        for i in range(len(x)):
            z[i] += x[i] * y[i]


def flop_rate():
    """Multiplications and additions a second of one thread, operands in the L1 cache."""
    x, y, z = np.ones((3, 2048), np.float32)
    return 2 * 2048 * 10_000 / best_time(lambda: multiply_add(x, y, z, 10_000))


def flop(rhm, n):
    """Multiplications and additions of both sweeps: rules, normalisation and marginals."""
    total = 0
    for level, rules in enumerate(rhm.rules, 1):
        symbols, m, s = rules.shape
        up = symbols * (m * s + 1)
        down = symbols * m * (s - 1 + 2 * (s - 2) + 2 * s) + 4 * s * rhm.v
        total += n * s ** (rhm.L - level) * (up + down)
    return total


def message_bytes(rhm, n):
    return (
        4 * n * sum(rhm.s ** (rhm.L - level) * rhm.n_symbols(level) for level in range(rhm.L + 1))
    )


def case(L, n, m=8, **kind):
    rhm = RandomHierarchyModel(32, m, 2, L, **kind)
    return rhm, EpsilonProcess(32).beliefs(rhm.sample(n)[0], 0.7)


#: Trees of the third table: name -> arguments of :func:`case`.
KINDS = {
    f"{kind}, L={L}, n={n}": {"L": L, "n": n} | how
    for L, n in ((7, 1), (7, 128), (10, 16))
    for kind, how in (("equal", {}), ("Zipf", {"zipf": 1.0}), ("m=4,12", {"m": ([4, 12] * L)[:L]}))
}


def fused_times(names):
    """Milliseconds of the fused kernels, by name of the tree."""
    return {
        name: 1e3 * best_time(partial(all_marginals, "numba", *case(**KINDS[name])))
        for name in names
    }


def kinds_beside(path):
    """Print the third table; ``path`` of an earlier checkout, or None."""
    now = fused_times(KINDS)
    before = dict.fromkeys(KINDS)
    if path:
        known = [name for name in KINDS if name.startswith("equal")]
        for _ in range(2):  # in turns, the best of both counts
            script = [sys.executable, __file__, "--times", *known]
            told = subprocess.check_output(script, env=os.environ | {"PYTHONPATH": path}, text=True)
            for name, ms in json.loads(told).items():
                before[name] = min(ms, before[name] or ms)
            for name, ms in fused_times(known).items():
                now[name] = min(ms, now[name])
    print(f"\n{'tree, fused':>18} {'ms':>8} {'over equal':>10} {'before':>8} {'before / now':>12}")
    for name, ms in now.items():
        equal = now["equal" + name[name.index(", L") :]]
        old = f"{before[name]:>8.2f} {before[name] / ms:>11.2f}x" if before[name] else ""
        print(f"{name:>18} {ms:>8.2f} {ms / equal:>9.2f}x {old}")


def all_marginals(backend, rhm, beliefs):
    return BeliefPropagation(rhm, backend)(beliefs).marginals


def draw(posterior, k):
    return posterior.sample(k, torch.Generator().manual_seed(0))


def peak_growth(backend, L, n, pipe):
    """Send the growth of peak memory (bytes) of one call, measured in this fresh process."""
    torch.set_num_threads(1)
    small_rhm, small = case(3, 1)  # compiles and loads everything first
    all_marginals(backend, small_rhm, small)
    rhm, beliefs = case(L, n)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the kernel forgets the peak so far
    before = status("VmRSS")
    all_marginals(backend, rhm, beliefs)
    pipe.send(status("VmHWM") - before)


def status(name):
    """A memory size of this process, in bytes."""
    with open("/proc/self/status") as file:
        return 1024 * int(file.read().split(f"{name}:")[1].split()[0])


def memory(backend, L, n):
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=peak_growth, args=(backend, L, n, send))
    process.start()
    grown = receive.recv()
    process.join()
    return grown


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--against", metavar="PATH", help="checkout of an earlier version")
    parser.add_argument("--times", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quick = arguments.quick
    torch.set_num_threads(1)
    if arguments.times:
        print(json.dumps(fused_times(arguments.times)))
        return
    rate = flop_rate()
    print(f"one thread, {rate / 1e9:.1f} Gflop/s on operands in L1; times are the best of a second")
    batches = (1, 128) if quick else (1, 8, 16, 32, 128, 512, 1024)
    cases = [("batch", 7, n) for n in batches]
    cases += [] if quick else [("batch", 10, n) for n in batches]
    cases += [("leaves", L, 1) for L in ((10, 12) if quick else (10, 12, 14, 16, 17))]
    print(
        f"{'(v,m,s,L)':>12} {'n':>5} {'fused ms':>9} {'us/1000 leaf.':>13} {'plain ms':>9} "
        f"{'ratio':>6} {'limit ms':>9} {'messages MB':>12} {'memory fused':>13} {'plain':>6}"
    )
    for _, L, n in cases:
        rhm, beliefs = case(L, n)
        seconds = {
            backend: best_time(partial(all_marginals, backend, rhm, beliefs))
            for backend in ("numba", "torch")
        }
        messages = message_bytes(rhm, n)
        # A few MB are below what the peak of a process can resolve.
        grown = [
            f"{memory(b, L, n) / messages:.1f}x" if messages > 1e7 else "-"
            for b in ("numba", "torch")
        ]
        print(
            f"{f'(32,8,2,{L})':>12} {n:>5} {1e3 * seconds['numba']:>9.2f} "
            f"{1e9 * seconds['numba'] / (n * rhm.d):>13.0f} {1e3 * seconds['torch']:>9.2f} "
            f"{seconds['torch'] / seconds['numba']:>5.1f}x {1e3 * flop(rhm, n) / rate:>9.2f} "
            f"{messages / 1e6:>12.1f} {grown[0]:>13} {grown[1]:>6}"
        )
    kinds_beside(arguments.against)
    print("\nposterior samples of one observation, (32,8,2,9)")
    print(f"{'k':>6} {'fused ms':>9} {'plain ms':>9} {'ratio':>6}")
    rhm, beliefs = case(9, 1)
    for k in (100, 1000) if quick else (100, 1000, 4000):
        fused, plain = (
            best_time(partial(draw, BeliefPropagation(rhm, backend)(beliefs), k))
            for backend in ("numba", "torch")
        )
        print(f"{k:>6} {1e3 * fused:>9.2f} {1e3 * plain:>9.2f} {plain / fused:>5.1f}x")


if __name__ == "__main__":
    main()
