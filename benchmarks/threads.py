"""Calls on busy cores: with torch's threads, with one, and as they were at another commit.

Starts one busy process a core and a process for each commit, then takes turns call by call: this
code with as many torch threads as there are cores, with one, and the same for the other commit. So
whatever else the machine does meets all alike. Times are means, as the rare long wait is what is
looked for. The last call opens no threads at all: its ratio of "now" to "now, 1" would be 1 without
noise, and says how far the others can be trusted. All numbers are of this one run.

Usage: python benchmarks/threads.py [--before DIR] [--idle] [--turns N]
DIR is a checkout of another commit: git worktree add DIR COMMIT.
"""

import argparse
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

CORES = len(os.sched_getaffinity(0))
HERE = Path(__file__).resolve().parents[1]
NAMES = [
    "inference, 1 tree",
    "inference, 16 trees",
    "inference, 128 trees",
    "with logarithms, 8 trees",
    "1000 draws of 1 tree",
    "4 draws of 128 trees",
    "32 draws of 128 trees",
    "1000 trees of the model",
]


def busy():
    while True:
        pass


def calls():
    import torch

    from hierphase.rhm.belief_propagation import BeliefPropagation
    from hierphase.rhm.corruption import EpsilonProcess
    from hierphase.rhm.model import RandomHierarchyModel

    rhm = RandomHierarchyModel(32, 8, 2, 7)
    bp, beliefs = BeliefPropagation(rhm), EpsilonProcess(32).beliefs(rhm.sample(128)[0], 0.7)
    posterior, one = bp(beliefs), bp(beliefs[:1])
    steep = 100 * beliefs[:8].log()  # beyond float32's products: with logarithms
    functions = [
        lambda: bp(beliefs[:1]).marginals,
        lambda: bp(beliefs[:16]).marginals,
        lambda: bp(beliefs).marginals,
        lambda: bp(steep, log=True).marginals,
        lambda: one.sample(1000, torch.Generator()),
        lambda: posterior.sample(4, torch.Generator()),
        lambda: posterior.sample(32, torch.Generator()),
        lambda: rhm.sample(1000),
    ]
    return dict(zip(NAMES, functions, strict=True))


def serve():
    """Time a call for each line "THREADS NAME" of the standard input; print seconds."""
    import torch

    known = calls()
    for call in known.values():
        call()
    for line in sys.stdin:
        threads, name = line.strip().split(" ", 1)
        torch.set_num_threads(int(threads))
        start = time.perf_counter()
        known[name]()
        print(time.perf_counter() - start, flush=True)


class Commit:
    """A process that runs the calls of one checkout."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": str(CORES)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def seconds(self, threads, name):
        """Of one call."""
        print(threads, name, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=Path, help="a checkout of another commit")
    parser.add_argument("--idle", action="store_true", help="without busy processes")
    parser.add_argument("--turns", type=int, default=40, help="of every call")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    commits = {"now": Commit(HERE)}
    if arguments.before:
        commits["before"] = Commit(arguments.before.resolve())
    for commit in commits.values():
        commit.seconds(1, NAMES[0])  # waits until all is compiled
    load = [multiprocessing.Process(target=busy, daemon=True) for _ in range(CORES)]
    for process in [] if arguments.idle else load:
        process.start()
    cases = [(name, threads) for name in commits for threads in (CORES, 1)]
    print(f"ms a call, {CORES} threads or 1, {'idle' if arguments.idle else 'busy'} cores")
    heads = [name if threads > 1 else f"{name}, 1" for name, threads in cases]
    ratios = ["now/now, 1"] + ["before/now"] * (len(commits) - 1)
    print(f"{'':>26}" + "".join(f"{head:>12}" for head in heads + ratios))
    for name in NAMES:
        turns = [{} for _ in range(arguments.turns)]
        for times in turns:
            # in any order: who comes after another process finds the caches cold
            for commit, threads in random.sample(cases, len(cases)):
                times[commit, threads] = 1e3 * commits[commit].seconds(threads, name)
        means = [sum(times[case] for times in turns) / len(turns) for case in cases]
        ratios = [means[0] / means[1], *(means[2:3] and [means[2] / means[0]])]
        print(f"{name:>26}" + "".join(f"{number:>12.2f}" for number in means + ratios), flush=True)
    for process in [] if arguments.idle else load:
        process.kill()
    for commit in commits.values():
        commit.process.stdin.close()
        commit.process.wait()


if __name__ == "__main__":
    main()
