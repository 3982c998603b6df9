"""Where a training stands, in one file, so that it can be killed at any moment."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch

from hierphase.runs.results import write

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(directory: Path, run: dict, step: int, seconds: float, parts: Sequence) -> None:
    """Write where a training stands, atomically (all of it or nothing).

    Args:
        directory: where ``checkpoint.pt`` goes.
        run: what makes this training the one it is (name, steps, seed).
        step: optimiser steps done.
        seconds: wall time spent so far.
        parts: network, optimisers, averages, ...: all that have a ``state_dict()``.
    """
    state = {"run": run, "step": step, "seconds": seconds}
    content = io.BytesIO()
    torch.save(state | {"parts": [part.state_dict() for part in parts]}, content)
    write(content.getbuffer(), directory / CHECKPOINT)


def load_checkpoint(directory: Path, run: dict, parts: Sequence) -> tuple[int, float]:
    """Put all parts where the checkpoint has them, if there is one.

    Returns:
        Steps done and seconds spent, (0, 0.0) without a checkpoint.

    Raises:
        ValueError: the checkpoint was written by another run.
    """
    path = directory / CHECKPOINT
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["run"] != run:
        raise ValueError(
            f"{path} belongs to the training {state['run']}, not to {run}: continue that one, "
            "delete the file, or give another output directory"
        )
    for part, its_state in zip(parts, state["parts"], strict=True):
        part.load_state_dict(its_state)
    return state["step"], state["seconds"]
