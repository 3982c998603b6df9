"""What `hierphase measure` computes, beside a loop over reversal times written by hand.

    python benchmarks/measure.py [N_IMAGES] [N_TIMES] [--write]

The trained denoiser of the digits and its classifier, 50 steps of SDE-DPM++ 2M, one thread. The
loop is what one would write with diffusers: for each time noise all images, step the scheduler back
from there in batches of up to 64, classify, and compare the activations of the same layers. Both
make the same measurement of the model (t* is printed). The sweep makes more calls, as on a CPU one
has 32 rows, filled up so that numbers do not depend on the split, of one shard of 16 images; and it
writes shards that survive interruptions, and the spatial bands of its images. ``calls`` of the
denoiser and their ``rows``, ``wall_s`` and ``cpu_s`` in seconds, all of this one run; --write
leaves them as measure.csv beside the model digits of the book.
"""

import sys
import tempfile
import time

import diffusers
import numpy as np
import pandas as pd
import torch

from hierphase.analysis import representations, transition
from hierphase.experiments import worlds, your_model
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import class_probabilities
from hierphase.runs import sweep

STEPS, BATCH = 50, 64


def by_sweep(parameters):
    """Classes (time, image) of the sweep that `measure` runs."""
    with tempfile.TemporaryDirectory() as folder:
        like = "your-model", "measured", parameters, folder, 16, None
        result = sweep.run_sweep(your_model.OwnImages, *like)
    return result.top_class.isel(rank=0).transpose("time", "image").values


def by_hand(parameters, unet):
    """The same, a time after the other."""
    experiment = your_model.OwnImages(parameters)
    judge, layers, n = experiment.classifier, experiment.p.layers, len(experiment)
    x_0, sampler = experiment.world.starts(range(n))[0], experiment.world.pipeline.scheduler
    generator = torch.Generator().manual_seed(0)
    scales = representations.fit_standardisers(judge, experiment.world.held_out.split(256), layers)
    found = [class_probabilities(judge, x_0).argmax(1)]
    for level in worlds.ln_snrs(experiment.world.scheduler)[experiment.times()][1:]:
        samples = []
        for batch in x_0.split(BATCH):
            scheduler = diffusers.DPMSolverMultistepScheduler.from_config(sampler.config)
            scheduler.set_timesteps(STEPS)
            sigmas = scheduler.sigmas[:-1].double()
            begin = int((-2 * sigmas.log() - level).abs().argmin())
            scheduler.set_begin_index(begin)
            steps = scheduler.timesteps[begin:]
            noise = torch.randn(batch.shape, generator=generator)
            x = scheduler.add_noise(batch, noise, steps[:1].expand(len(batch)))
            with torch.no_grad():
                for t in steps:
                    x = scheduler.step(unet(x, t).sample, t, x, generator=generator).prev_sample
            samples.append(x)
        samples = torch.cat(samples)
        found.append(class_probabilities(judge, samples).argmax(1))
        representations.layer_similarity(judge, x_0, samples[None], scales)
    return torch.stack(found).numpy()


def main(n=60, n_times=8, *write):
    torch.set_num_threads(1)
    parameters = your_model.chosen(
        "digits", "digits", limit=int(n), n_times=int(n_times), num_inference_steps=STEPS
    )
    unet = your_model.OwnImages(parameters).world.pipeline.model
    rows, found, forward = [], {}, type(unet).forward
    t = your_model.OwnImages(parameters).times() / 1000

    def counted(self, x, *given, **options):
        rows.append(len(x))
        return forward(self, x, *given, **options)

    type(unet).forward = counted
    for name, way in {
        "hierphase measure": lambda: by_sweep(parameters),
        "a loop by hand": lambda: by_hand(parameters, unet),
    }.items():
        rows.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        classes = way()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        chance = transition.unrelated_agreement(classes[0], classes[-1])
        star = transition.transition_time(np.asarray(t), classes == classes[0], chance)
        found[name] = {"calls": len(rows), "rows": sum(rows), "wall_s": wall, "cpu_s": cpu}
        found[name] |= {"t_star": star.value, "low": star.low, "high": star.high, "images": int(n)}
    table = pd.DataFrame(found).T.astype({"calls": int, "rows": int, "images": int})
    print(table.round(3).to_string())
    if "--write" in write:
        table.to_csv(model_directory("digits") / "measure.csv", float_format="%.3g")


if __name__ == "__main__":
    main(*sys.argv[1:])
