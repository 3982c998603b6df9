"""Forward-backward: all times packed in one sweep, against loops written by hand.

The trained denoiser of the digits, DDPM, 25 respaced steps, reversal times spread evenly over
these, one thread. First table: cost against images, then against times, of the sweep as it is by
default (calls of 32 rows, filled up by repetition, so that bits do not depend on how work is
split) and of one loop per time, as a plain loop over diffusers' scheduler would be, with at most 64
images a call. Second table: 32 images x 20 times, by default, with ``exact_bits=False``, with a
``batch_size`` far above the rows at hand, and by a loop that packs all rows that are under way by
hand, with one call of the model and one scheduler step for all of them; with ``--before PATH``, a
checkout of another commit, also the default of that one, in turn with ours. ``rows`` counts what
the model computed, ``filled`` the share of it that was repetition, ``s`` is wall time and
``ms/row`` that of the sweep per row needed. On a busy machine trust the ratio of CPU times more
than that of wall times. All ratios are of this one run.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from diffusers import DDPMScheduler, UNet2DModel

from hierphase.diffusion.datasets import digits
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.runs.results import book_directory
from hierphase.seeds import derived_generator

STEPS, BATCH = 25, 64


def measured(pipeline, x0, times, batch_size, **options):
    """Samples, model calls, model rows, seconds of wall time and of CPU time."""
    calls = []
    hook = pipeline.model.register_forward_pre_hook(
        lambda module, inputs: calls.append(len(inputs[0]))
    )
    generators = [derived_generator(0, i) for i in range(len(x0))]
    wall, cpu = time.perf_counter(), time.process_time()
    samples = pipeline(x0, times, STEPS, generators, batch_size, **options).samples
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    hook.remove()
    return samples, len(calls), sum(calls), wall, cpu


def loop_per_time(pipeline, x0, times):
    """The same numbers of one call a time, added up."""
    results = [measured(pipeline, x0, [t], min(BATCH, len(x0))) for t in times]
    samples, *counts = zip(*results, strict=True)
    return torch.cat(samples), *(sum(count) for count in counts)


def packed_by_hand(pipeline, x0, times):
    """All rows that are under way in one call, and one step of one scheduler for all of them."""
    wall, cpu, scheduler, rows = time.perf_counter(), time.process_time(), pipeline.scheduler, 0
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(0)
    x, under_way = x0.repeat(len(times), 1, 1, 1), torch.zeros(len(times) * len(x0), dtype=bool)
    with torch.no_grad():
        for t in scheduler.timesteps:
            if int(t) in times:
                k = times.index(int(t))
                new = slice(k * len(x0), (k + 1) * len(x0))
                x[new] = scheduler.add_noise(x0, torch.randn(x0.shape, generator=generator), t)
                under_way[new] = True
            if under_way.any():
                predicted = pipeline.model(x[under_way], t).sample
                rows += len(predicted)
                stepped = scheduler.step(predicted, t, x[under_way], generator=generator)
                x[under_way] = stepped.prev_sample
    return x, STEPS, rows, time.perf_counter() - wall, time.process_time() - cpu


def against_hand(pipeline, x0, times, before):
    """The second table."""
    ways = {
        "default": lambda: measured(pipeline, x0, times, BATCH),
        "exact_bits=False": lambda: measured(pipeline, x0, times, BATCH, exact_bits=False),
        "the same, batch_size=10000": lambda: measured(
            pipeline, x0, times, 10_000, exact_bits=False
        ),
        "packed by hand": lambda: packed_by_hand(pipeline, x0, times),
    }
    if before:
        ways["default of the commit before"] = lambda: of_commit(before, len(x0), times)
    found = {name: [] for name in ways}
    for _ in range(3):
        for name, way in ways.items():
            found[name].append(way()[1:])
    print(
        f"\n{'32 images x 20 times':>30} {'calls':>6} {'rows':>7} {'s':>6} {'CPU':>6} {'ratio':>6}"
    )
    best = {name: min(runs, key=lambda run: run[3]) for name, runs in found.items()}
    for name, (calls, rows, wall, cpu) in best.items():
        ratio = cpu / best["packed by hand"][3]
        print(f"{name:>30} {calls:>6} {rows:>7} {wall:>6.2f} {cpu:>6.2f} {ratio:>6.2f}")


def of_commit(path, n, times):
    """What :func:`measured` says with the package of another checkout."""
    environment = os.environ | {"PYTHONPATH": path, "HIERPHASE_BOOK": f"{path}/book"}
    command = [sys.executable, __file__, "--one", json.dumps([n, times])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [None, *json.loads(done.stdout)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--before", help="a checkout of another commit, to be compared")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quick = arguments.quick
    torch.set_num_threads(1)
    directory = book_directory() / "models" / "digits"
    pipeline = ForwardBackwardPipeline(
        UNet2DModel.from_pretrained(directory, subfolder="unet").eval(),
        DDPMScheduler.from_pretrained(directory, subfolder="scheduler"),
    )
    images = digits().test_images
    measured(pipeline, images[:BATCH], [100], BATCH)  # warm up

    if arguments.one:
        n, times = json.loads(arguments.one)
        print(json.dumps(measured(pipeline, images[:n], times, BATCH)[1:]))
        return
    pipeline.scheduler.set_timesteps(STEPS)
    grid = pipeline.scheduler.timesteps.tolist()
    cases = [(n, 6) for n in ((1, 16) if quick else (1, 4, 16, 64, 128))]
    cases += [(8, k) for k in ((1, 24) if quick else (1, 3, 8, 24))]
    print(
        f"{'':>12} {'packed sweep':^36} {'one loop per time':^21} {'loop / packed':^21}\n"
        f"{'images times':>12} {'calls':>6} {'rows':>7} {'filled':>6} {'s':>6} {'ms/row':>7} "
        f"{'calls':>6} {'rows':>7} {'s':>6} {'calls':>7} {'wall':>6} {'CPU':>6} {'difference':>11}"
    )
    for n, k in cases:
        times = grid[: -1 : (STEPS - 1) // k]
        batch_size = min(BATCH, n * len(times))
        packed, calls, rows, wall, cpu = measured(pipeline, images[:n], times, batch_size)
        loop, loop_calls, needed, loop_wall, loop_cpu = loop_per_time(pipeline, images[:n], times)
        print(
            f"{n:>6} {len(times):>5} {calls:>6} {rows:>7} {1 - needed / rows:>6.0%} {wall:>6.2f} "
            f"{1e3 * wall / needed:>7.2f} {loop_calls:>6} {needed:>7} {loop_wall:>6.2f} "
            f"{loop_calls / calls:>6.1f}x {loop_wall / wall:>5.1f}x {loop_cpu / cpu:>5.1f}x "
            f"{(packed - loop).abs().max():>11.1e}",
            flush=True,
        )
    against_hand(pipeline, images[:32], grid[:20], arguments.before)


if __name__ == "__main__":
    main()
