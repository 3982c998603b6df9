"""Whether the transition moves as a denoiser of images gets better: along one training of it.

    python benchmarks/along_training.py digits 250 500 1000 2000 4000 6000 [--write]

Trains as `hierphase train` does, in runs/NAME (or goes on there), and copies the checkpoint when it
comes by these steps, multiples of 250. What the averaged weights of each copy draw is judged by the
classifier; then the image experiment is run with them, at ten images a class and 12 times. Prints a
table, which --write leaves as stages.csv beside the model of the book. Ten minutes of one core for
the digits.
"""

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from diffusers import DDPMPipeline
from diffusers.training_utils import EMAModel

from hierphase.analysis import transition
from hierphase.experiments import registry
from hierphase.files import read_sealed
from hierphase.networks.catalogue import TRAININGS, model_directory
from hierphase.networks.checkpoints import CHECKPOINT, save_model
from hierphase.networks.objectives import SCHEDULE
from hierphase.networks.sample_quality import is_weak
from hierphase.networks.training import QUALITY, judge_saved

SMALL = {"n_per_class": 10, "n_times": 12, "n_shown": 0}
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


def measured(name: str, place: Path) -> dict[str, float]:
    """Quality and t* of the averaged weights in a copy."""
    folder, model = place / "model", TRAININGS[name].model().eval()
    averages = EMAModel(model.parameters())
    averages.load_state_dict(checkpoint(place)["parts"][-2])
    averages.copy_to(model.parameters())
    save_model(DDPMPipeline(model, SCHEDULE), folder)
    judge_saved(TRAININGS[name], name, folder, seed=0, facts=[])
    quality = json.loads((folder / QUALITY).read_text())
    changes = SMALL | {"model": str(folder.absolute())}
    result = registry.run_sweep("imagenet-transition", name, changes, place / "transition")
    classes = result.top_class.isel(rank=0).transpose("time", "image").values
    chance = transition.unrelated_agreement(classes[0], classes[-1])
    star = transition.transition_time(result.time.values, classes == classes[0], chance)
    found = {"t_star": star.value, "low": star.low, "high": star.high}
    return found | {key: quality[key] for key in SHOWN} | {"weak": is_weak(quality)}


if __name__ == "__main__":
    name, *steps = [word for word in sys.argv[1:] if word != "--write"]
    found = copies(name, [int(step) for step in steps])
    table = pd.DataFrame({step: measured(name, place) for step, place in found.items()}).T
    print(table.to_string())
    if "--write" in sys.argv:
        table.to_csv(model_directory(name) / "stages.csv", index_label="step")
