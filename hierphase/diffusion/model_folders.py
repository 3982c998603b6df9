"""Model folders in diffusers' layout: what they say is what runs, and what is broken is named.

Nothing is downloaded, and nothing but tensors is ever unpickled.
"""

import inspect
import json
from pathlib import Path

import diffusers
import torch
from accelerate import init_empty_weights

from hierphase.checks import naming
from hierphase.diffusion.state_dicts import differences, read_state_dict
from hierphase.parameters import check_values

#: Names of files that hold a model's settings and its weights, in a folder or in several below it.
SETTINGS, WEIGHTS = "*config.json", "diffusion_pytorch_model*"


def load_model(folder: Path, kind: type) -> torch.nn.Module:
    """The model in a folder that holds ``config.json`` and weights (``.safetensors`` or ``.bin``).

    Args:
        folder: with the files, perhaps several of weights.
        kind: the class, or a base whose subclass the config names (``_class_name``, of diffusers).

    Returns:
        The model in float32, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: a file is damaged or there is no config, the class is another, or the weights
            are not those of the config, no floats, or not finite; the message names the file.
    """
    model = _from_config(folder / "config.json", kind)
    of_format = (sorted(folder.glob(WEIGHTS + suffix)) for suffix in (".safetensors", ".bin"))
    files = next(filter(None, of_format), [folder / "diffusion_pytorch_model.safetensors"])
    state = {name: x for file in files for name, x in read_state_dict(file).items()}
    model._fix_state_dict_keys_on_load(state)  # names of attentions in old files
    if problems := differences(model.state_dict(), state):
        raise ValueError(f"{files[0]}: not the weights of {folder / 'config.json'}: {problems}")
    model.load_state_dict(state, assign=True)
    return model.float().eval()


def load_scheduler(folder: Path) -> diffusers.SchedulerMixin:
    """The scheduler of a folder that holds ``scheduler_config.json``, of the class that it names.

    Raises:
        ValueError: the file is missing or damaged, has a value of another type, or noise that does
            not rise.
    """
    return _from_config(folder / "scheduler_config.json", diffusers.SchedulerMixin)


def model_files(path: Path) -> dict[str, Path]:
    """The files of a model that its numbers depend on: name in its folder -> file."""
    if path.is_file():
        return {"": path}
    files = sorted(file for names in (SETTINGS, WEIGHTS) for file in path.rglob(names))
    return {str(file.relative_to(path)): file for file in files}


def _from_config(path: Path, kind: type):
    """A model without weights, or a scheduler, as a config says."""
    with naming(path):
        config = dict(json.loads(path.read_bytes()))
        name = str(config.get("_class_name"))
        found = kind if name == kind.__name__ else getattr(diffusers, name, None)
        if not isinstance(found, type) or not issubclass(found, kind):
            raise ValueError(f"_class_name {name!r} is no {kind.__name__} that is known here")
        if issubclass(found, diffusers.SchedulerMixin):
            known = {p.name: p.default for p in inspect.signature(found).parameters.values()}
            given = {k: v for k, v in config.items() if k in known and v not in (None, known[k])}
            check_values(name, known, given)
        with init_empty_weights():
            made = found.from_config(config)
        levels = getattr(made, "alphas_cumprod", None)
        if levels is not None:
            n, ends = made.config.num_train_timesteps, levels[[0, -1]].tolist()
            if len(levels) != n or not ((levels.diff() < 0).all() and 1 >= ends[0] >= ends[1] >= 0):
                found = f"alphas_cumprod fall within [0, 1], got {len(levels)} that make it {ends}"
                raise ValueError(f"betas must be {n} numbers that make {found}")
        return made
