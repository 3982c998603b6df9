"""Model folders in diffusers' layout: what they say is what runs, and what is broken is named.

Nothing is downloaded, and nothing but tensors is ever unpickled.
"""

import inspect
import json
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from accelerate import init_empty_weights

from hierphase.checks import naming
from hierphase.diffusion.guided_diffusion import no_text
from hierphase.diffusion.state_dicts import differences, read_state_dict
from hierphase.parameters import check_values

#: Names of files that hold a model's settings and its weights, in a folder or in several below it.
SETTINGS, WEIGHTS = "*config.json", "diffusion_pytorch_model"
#: Name of the file beside a denoiser's weights that holds what else it takes for all images alike.
CONDITIONS = "conditions.safetensors"


class LatentSpace:
    """Images as denoisers of latents see them: encoded by the model ``vae``, centred and scaled.

    Args:
        vae: ``AutoencoderKL``, ``VQModel`` or another of diffusers with ``encode`` and ``decode``.

    Attributes:
        factor: pixels to a side of one latent.

    Example:
        >>> import torch
        >>> from diffusers import AutoencoderKL
        >>> from hierphase.diffusion.model_folders import LatentSpace
        >>> space = LatentSpace(AutoencoderKL(block_out_channels=(32,)))
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> space.encode(images).shape, space.decode(space.encode(images)).shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 3, 8, 8]))
    """

    def __init__(self, vae: torch.nn.Module):
        self.vae, config = vae, vae.config
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self._scale, self._shift = config.scaling_factor, config.get("shift_factor") or 0.0

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents (n, ...) of images (n, ...) in [-1, 1], the likeliest; one image at a time."""
        found = [self.vae.encode(x) for x in images.to(self.vae.device).split(1)]
        latents = [x.latents if hasattr(x, "latents") else x.latent_dist.mode() for x in found]
        return (torch.cat(latents) - self._shift) * self._scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (..., n, channels, height, width) of latents, one at a time."""
        scaled = latents / self._scale + self._shift
        images = [self.vae.decode(x).sample for x in scaled.flatten(0, -4).split(1)]
        return torch.cat(images).unflatten(0, latents.shape[:-3])


def load_model(folder: Path, kind: type) -> torch.nn.Module:
    """The model in a folder that holds ``config.json`` and weights (``.safetensors`` or ``.bin``).

    Args:
        folder: with the files, perhaps several of weights: the parts of one model, of which none
            is read where it is there as a whole.
        kind: the class, or a base whose subclass the config names (``_class_name``, of diffusers).

    Returns:
        The model in float32, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: a file is damaged or there is no config, the class is another, or the weights
            are not those of the config, no floats, not finite, or there twice; the message names
            the file.
    """
    model = _from_config(folder / "config.json", kind)
    ends = (".safetensors", "*.safetensors", ".bin", "*.bin")  # the whole first, then its parts
    of_format = (sorted(folder.glob(WEIGHTS + end)) for end in ends)
    files = next(filter(None, of_format), [folder / f"{WEIGHTS}.safetensors"])
    parts = [read_state_dict(file) for file in files]
    state = {name: x for part in parts for name, x in part.items()}
    if len(state) < sum(map(len, parts)):
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{folder}: {names} hold the same weights: leave those of one model")
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


class Denoiser(NamedTuple):
    """What denoises images, or their latents where there is a ``space``.

    ``conditions`` are those of a
    :class:`~hierphase.diffusion.forward_backward.ForwardBackwardPipeline` that are the same for all
    images: name -> (1, ...).
    """

    model: torch.nn.Module
    scheduler: diffusers.SchedulerMixin
    conditions: dict[str, torch.Tensor] = {}
    space: LatentSpace | None = None


def load_denoiser(folder: Path | str) -> Denoiser:
    """All of a folder: a model (in ``unet`` or ``transformer``) and its scheduler, or side by side.

    An autoencoder is in ``vae`` or ``vqvae``; what else the model takes, the same for all images,
    in ``conditions.safetensors`` beside its weights: keyword -> (1, ...), such as the
    ``encoder_hidden_states`` of the empty prompt.

    Raises:
        FileNotFoundError: as :func:`load_model`.
        ValueError: as :func:`load_model` and :func:`load_scheduler`.
    """
    folder = Path(folder)
    parts = {part.name: part for part in folder.iterdir() if part.is_dir()}
    of_model = parts.get("unet") or parts.get("transformer") or folder
    of_vae, path = parts.get("vae") or parts.get("vqvae"), of_model / CONDITIONS
    model = load_model(of_model, diffusers.ModelMixin)
    conditions = read_state_dict(path) if path.is_file() else no_text(model)
    space = LatentSpace(load_model(of_vae, diffusers.ModelMixin)) if of_vae else None
    return Denoiser(model, load_scheduler(parts.get("scheduler", folder)), conditions, space)


def model_files(path: Path) -> dict[str, Path]:
    """The files of a model that its numbers depend on: name in its folder -> file."""
    if path.is_file():
        return {"": path}
    files = sorted(x for name in (SETTINGS, f"{WEIGHTS}*", CONDITIONS) for x in path.rglob(name))
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
        if (levels := getattr(made, "alphas_cumprod", None)) is not None:
            n, ends = made.config.num_train_timesteps, levels[[0, -1]].tolist()
            if len(levels) != n or not ((levels.diff() < 0).all() and 1 >= ends[0] >= ends[1] >= 0):
                found = f"alphas_cumprod fall within [0, 1], got {len(levels)} that make it {ends}"
                raise ValueError(f"betas must be {n} numbers that make {found}")
        return made
