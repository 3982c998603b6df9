"""Whether the transition moves as a denoiser of images gets better: along one training of it.

    python benchmarks/along_training.py digits 250 500 1000 2000 4000 6000 [--write]

Trains as `hierphase train` does, in runs/NAME (or goes on there), and copies the checkpoint when it
comes by these steps, multiples of 250. What the averaged weights of each copy draw is judged by the
classifier; then the image experiment is run with them, on the same 30 images a class and noise, at
12 times. Prints a table with t*, and how much later that of the last step is (paired over images),
which --write leaves as stages.csv beside the model of the book. Interrupted, it goes on where it
was. 15 minutes of one core for the digits, and 20 a stage for CIFAR-10 at 16x16.
"""

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMPipeline
from diffusers.training_utils import EMAModel

from hierphase.analysis import bootstrap, transition
from hierphase.experiments import registry
from hierphase.files import read_sealed
from hierphase.networks.catalogue import TRAININGS, model_directory
from hierphase.networks.checkpoints import CHECKPOINT, save_model
from hierphase.networks.objectives import SCHEDULE
from hierphase.networks.sample_quality import is_weak
from hierphase.networks.training import QUALITY, judge_saved

SMALL = {"n_per_class": 30, "n_times": 12, "n_shown": 0}
SHOWN = ["loss_held_out", "confident", "confident_held_out", "frechet", "frechet_train"]


def checkpoint(folder: Path) -> dict:
    """What a training left in a folder."""
    content = io.BytesIO(read_sealed(folder / CHECKPOINT))
    return torch.load(content, map_location="cpu", weights_only=True)


def reached(folder: Path) -> int:
    """Step of the checkpoint in a folder; 0 if there is none."""
    return checkpoint(folder)["reached"]["step"] if (folder / CHECKPOINT).is_file() else 0


def copies(name: str, steps: list[int]) -> dict[int, Path]:
    """Folders with the checkpoint at each step, made by a training that is run for them."""
    folder = Path("runs") / name
    places = {step: folder.with_name(f"{name}-at-{step}") for step in steps}
    missing = sorted(step for step, place in places.items() if reached(place) != step)
    if missing:
        command = [sys.executable, "-m", "hierphase", "train", name, "--output", folder]
        with subprocess.Popen(command) as process:
            while missing and process.poll() is None:
                if (step := reached(folder)) in missing:
                    places[step].mkdir(exist_ok=True)
                    shutil.copy(folder / CHECKPOINT, places[step])
                    missing.remove(step)
                time.sleep(1)
            process.terminate()
    return {step: place for step, place in places.items() if step not in missing}


def measured(name: str, place: Path) -> tuple[dict[str, float], np.ndarray]:
    """Quality of the averaged weights in a copy, and t* of all images and of resamples of them."""
    folder, model = place / "model", TRAININGS[name].model().eval()
    averages = EMAModel(model.parameters())
    averages.load_state_dict(checkpoint(place)["parts"][-2])
    averages.copy_to(model.parameters())
    save_model(DDPMPipeline(model, SCHEDULE), folder)
    if not (folder / QUALITY).is_file():
        judge_saved(TRAININGS[name], name, folder, seed=0, facts=[])
    quality = json.loads((folder / QUALITY).read_text())
    changes = SMALL | {"model": str(folder.absolute())}
    result = registry.run_sweep("imagenet-transition", name, changes, place / "transition")
    classes = result.top_class.isel(rank=0).transpose("time", "image").values
    chance = transition.unrelated_agreement(classes[0], classes[-1])
    kept = np.vstack(bootstrap.means_and_resamples(classes == classes[0]))
    stars = transition.crossing_time(result.time.values, kept, (1 + chance) / 2)
    found = {key: quality[key] for key in SHOWN if key in quality}
    return found | {"weak": is_weak(quality)}, stars


def interval(draws: np.ndarray) -> list[float]:
    """The first of them, and between which 95% of the others lie; NaN where too many lack it."""
    found = bootstrap.estimate_if_found(draws[0], draws[1:], 0.95)
    return [found.value, found.low, found.high] if found else [np.nan] * 3


if __name__ == "__main__":
    name, *steps = [word for word in sys.argv[1:] if word != "--write"]
    found = copies(name, [int(step) for step in steps])
    rows = {step: measured(name, place) for step, place in sorted(found.items())}
    last = rows[max(rows)][1]
    for quality, stars in rows.values():  # the images, their noise and the resamples are the same
        quality |= dict(zip(("t_star", "low", "high"), interval(stars), strict=True))
        later = interval(last - stars)
        quality |= dict(zip(("later", "later_low", "later_high"), later, strict=True))
    table = pd.DataFrame({step: quality for step, (quality, _) in rows.items()}).T.infer_objects()
    print(table.to_string())
    if "--write" in sys.argv:
        table.to_csv(model_directory(name) / "stages.csv", index_label="step", float_format="%.5g")
