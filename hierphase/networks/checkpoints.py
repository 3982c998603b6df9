"""What a training leaves on the disk: where it stands, in one file, and at its end the model."""

import io
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from diffusers import ConfigMixin, DiffusionPipeline, ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME

from hierphase.files import read_sealed, write

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(directory: Path, run: dict, reached: dict, parts: Sequence) -> None:
    """Write where a training stands, atomically (all of it or nothing).

    Args:
        directory: where ``checkpoint.pt`` goes.
        run: what makes this training the one it is (name, steps, seed).
        reached: numbers and texts that say where it stands.
        parts: network, optimisers, averages, ...: all that have a ``state_dict()``.
    """
    content = io.BytesIO()
    torch.save({"run": run, "reached": reached, "parts": [x.state_dict() for x in parts]}, content)
    write(content.getbuffer(), directory / CHECKPOINT, sealed=True)


def load_checkpoint(directory: Path, run: dict, parts: Sequence) -> dict:
    """Put all parts where the checkpoint has them, if there is one.

    Returns:
        What had been ``reached``; empty without a checkpoint.

    Raises:
        ValueError: the checkpoint is damaged, or was written by another run.
    """
    path = directory / CHECKPOINT
    if not path.is_file():
        return {}
    try:
        content = io.BytesIO(read_sealed(path))
        state = torch.load(content, map_location="cpu", weights_only=True)
        if state["run"] == run:
            for part, its_state in zip(parts, state["parts"], strict=True):
                part.load_state_dict(its_state)
            return state["reached"]
        reason = f"belongs to the training {state['run']}, not to {run}: continue that one"
    except Exception as error:  # no limit to what another version's file makes the readers raise
        shown = " ".join(str(error).split())[:200]
        reason = f"is damaged, or of another version ({shown}): restore"
    raise ValueError(f"{path} {reason}, delete the file, or give another output directory")


def save_model(model: ConfigMixin, directory: Path) -> None:
    """Write a network, a scheduler, or a pipeline of these, as its ``save_pretrained`` does.

    The configuration goes first and comes last: it never stands beside another model's weights.

    Raises:
        WriteError: a file cannot be written; the message names it.
    """
    configuration = directory / model.config_name
    configuration.unlink(missing_ok=True)
    if isinstance(model, ModelMixin):
        weights = safetensors.torch.save(model.state_dict(), {"format": "pt"})
        write(weights, directory / SAFETENSORS_WEIGHTS_NAME)
    if isinstance(model, DiffusionPipeline):
        for name, part in model.components.items():
            save_model(part, directory / name)
    write(model.to_json_string().encode(), configuration)
