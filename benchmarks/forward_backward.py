"""Forward-backward: all times packed in one sweep against one loop per time.

The trained denoiser of the digits, DDPM, 25 respaced steps, reversal times spread evenly over
these, one thread. The packed sweep calls the model with 64 rows always (fewer where images x times
are fewer; filled up by repetition); the loops take one time after the other, with at most 64
images a call and none filled up, as a plain loop over diffusers' scheduler would. First block:
cost against images; second: against times. ``rows`` counts what the model computed, ``filled``
the share of it that was repetition, ``s`` is wall time and ``ms/row`` that of the packed sweep
per row needed. On a busy machine trust the ratio of CPU times more than that of wall times.
``difference`` is the largest one between the two results, which share their noise but not their
batch size. All ratios are of this one run.
"""

import argparse
import time

import torch
from diffusers import DDPMScheduler, UNet2DModel

from hierphase.diffusion.datasets import digits
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.runs.results import book_directory
from hierphase.seeds import derived_generator

STEPS, BATCH = 25, 64


def measured(pipeline, x0, times, batch_size):
    """Samples, model calls, model rows, seconds of wall time and of CPU time."""
    calls = []
    hook = pipeline.model.register_forward_pre_hook(
        lambda module, inputs: calls.append(len(inputs[0]))
    )
    generators = [derived_generator(0, i) for i in range(len(x0))]
    wall, cpu = time.perf_counter(), time.process_time()
    samples = pipeline(x0, times, STEPS, generators, batch_size).samples
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    hook.remove()
    return samples, len(calls), sum(calls), wall, cpu


def loop_per_time(pipeline, x0, times):
    """The same numbers of one call a time, added up."""
    results = [measured(pipeline, x0, [t], min(BATCH, len(x0))) for t in times]
    samples, *counts = zip(*results, strict=True)
    return torch.cat(samples), *(sum(count) for count in counts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    directory = book_directory() / "models" / "digits"
    pipeline = ForwardBackwardPipeline(
        UNet2DModel.from_pretrained(directory, subfolder="unet").eval(),
        DDPMScheduler.from_pretrained(directory, subfolder="scheduler"),
    )
    images = digits().test_images
    measured(pipeline, images[:BATCH], [100], BATCH)  # warm up

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


if __name__ == "__main__":
    main()
