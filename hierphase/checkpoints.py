"""Where a training stands, in one safetensors file, so that it can be killed at any moment."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hierphase.early_stopping import BestWeights

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(
    directory: Path,
    run: dict,
    step: int,
    seconds: float,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    ema: EMAModel,
    best: BestWeights,
) -> None:
    """Write weights, optimiser state and averaged weights, atomically (all of it or nothing).

    Args:
        directory: where ``checkpoint.safetensors`` goes.
        run: what makes this training the one it is (name, steps, seed); JSON types only.
        step: optimiser steps done.
        seconds: wall time spent so far.
        model: the network in training.
        optimizers: its optimisers.
        ema: its averaged weights.
        best: the best of them so far.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{i}": value for i, value in enumerate(ema.shadow_params)}
    tensors |= {f"best.{i}": value for i, value in enumerate(best.weights)}
    for k, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{k}.{i}.{name}": value for name, value in state.items()}
    temporary = directory / f".{CHECKPOINT}.{os.getpid()}.tmp"
    position = {"run": json.dumps(run), "step": str(step), "seconds": str(seconds)}
    position["lowest"] = str(best.lowest)
    try:
        save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, position)
        os.replace(temporary, directory / CHECKPOINT)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(
    directory: Path,
    run: dict,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    ema: EMAModel,
    best: BestWeights,
) -> tuple[int, float]:
    """Put networks and optimisers where the checkpoint has them, if there is one.

    Returns:
        Steps done and seconds spent, (0, 0.0) without a checkpoint.

    Raises:
        ValueError: the checkpoint was written by another run.
    """
    path = directory / CHECKPOINT
    if not path.is_file():
        return 0, 0.0
    with safe_open(path, "pt") as stored:
        position = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}
    if json.loads(position["run"]) != run:
        raise ValueError(
            f"{path} belongs to the training {position['run']}, not to {json.dumps(run)}: "
            "continue that one, delete the file, or give another output directory"
        )
    parts = {"model": {}, "ema": {}, "best": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = value
    model.load_state_dict(parts["model"])
    for i, average in enumerate(ema.shadow_params):
        average.copy_(parts["ema"][str(i)])
    ema.optimization_step = int(position["step"])
    best.lowest = float(position["lowest"])
    best.weights = [parts["best"][str(i)] for i in range(len(parts["best"]))]
    states = [{} for _ in optimizers]
    for name, value in parts["optimizer"].items():
        k, i, quantity = name.split(".")
        states[int(k)].setdefault(int(i), {})[quantity] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(position["step"]), float(position["seconds"])
