"""A tiny experiment for tests of sweeps, importable by any worker; also a command line that has it.

The environment, which is no part of its parameters, makes it slow (SLOW_SECONDS an image) or fail
(SLOW_FAIL, images) or write a file for every shard it begins (SLOW_LOG, a directory).
"""

import json
import os
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from hierphase.__main__ import main
from hierphase.experiments.base import Experiment
from hierphase.experiments.registry import EXPERIMENTS
from hierphase.runs import shards
from hierphase.seeds import derived_generator

NAME = "slow"
PRESETS = {"tiny": {"n_images": 12, "seed": 0, "scale": 1.0, "layers": ["early", "late"]}}
N_SHOWN = 5


class SlowExperiment(Experiment):
    presets = PRESETS
    least = {"n_images": 0}
    unit_dimensions = ("image", "shown")

    def __len__(self):
        return self.parameters["n_images"]

    def fingerprint(self):
        return super().fingerprint() + os.environ.get("SLOW_WEIGHTS", "")

    def prepare(self):
        numbers = torch.randn(1000, generator=derived_generator(1)).numpy()
        return xr.Dataset({"numbers": ("n", numbers, {"units": "none", "power": 2})})

    def measure(self, start, stop, prepared):
        log(start, stop)
        fail = os.environ.get("SLOW_FAIL")
        if fail and start <= int(fail) < stop:
            raise RuntimeError(f"image {fail} is told to fail")
        seconds = float(os.environ.get("SLOW_SECONDS", "0"))
        # A sum of this length comes out otherwise with two threads (a test makes sure).
        drawn = [torch.rand(100_000, generator=derived_generator(2, i)) for i in range(start, stop)]
        for _ in range(start, stop):
            time.sleep(seconds)
        drawn = [d * self.parameters["scale"] + prepared.numbers.values.mean() for d in drawn]
        shown = [d[:3] for d in drawn[: max(0, N_SHOWN - start)]]
        return xr.Dataset(
            {
                "total": ("image", [d.sum().item() for d in drawn], {"units": "none"}),
                "first": (("layer", "image"), np.stack([[d[k] for d in drawn] for k in (0, 1)])),
                "kept": ("image", [bool(d[0] > d[1]) for d in drawn]),
                "n_threads": ("image", np.full(len(drawn), torch.get_num_threads())),
                "pixels": (("shown", "row"), np.array(shown, dtype=np.float32).reshape(-1, 3)),
            },
            coords={
                "image": np.arange(start, stop),
                "layer": self.parameters["layers"],
                "time": [0.0, np.nan],
            },
            attrs={"about": "nothing"},
        )

    def finish(self, merged):
        return merged.assign(average=merged.total.mean())


def log(start, stop):
    if directory := os.environ.get("SLOW_LOG"):
        path = Path(directory, uuid.uuid4().hex)
        path.with_suffix(".tmp").write_text(json.dumps([start, stop, os.getpid()]))
        path.with_suffix(".tmp").rename(path.with_suffix(".json"))


def spec(directory, start=0, stop=4, **changes):
    parameters = PRESETS["tiny"] | changes
    key = shards.opened(SlowExperiment, json.dumps(parameters))[1]
    return shards.ShardSpec(SlowExperiment, parameters, start, stop, directory, key)


if __name__ == "__main__":
    import slow_experiment  # workers know the class by this name, not by that of a script

    EXPERIMENTS[NAME] = (slow_experiment.SlowExperiment,)
    sys.exit(main())
