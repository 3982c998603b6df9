"""The worlds of images: where x_0 comes from, and how it is denoised back.

A new world is another :class:`ImageWorld`. Of those that are solved exactly x̂0(t) is drawn from the
posterior; of others a trained network and a sampler make it.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from torch.nn import PixelShuffle, PixelUnshuffle

from hierphase.analysis.calibration import explained
from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.checks import check_shape, naming, positive_integer
from hierphase.diffusion.datasets import DATASETS
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.diffusion.guided_diffusion import load_adm, no_text
from hierphase.diffusion.image_folder import image_folder
from hierphase.diffusion.labels import LABELS, n_classes, told_classes
from hierphase.diffusion.model_folders import CONDITIONS, Denoiser, load_denoiser
from hierphase.diffusion.state_dicts import differences
from hierphase.networks.catalogue import TRAININGS, model_directory
from hierphase.networks.classifiers import cifar10_features
from hierphase.networks.objectives import STOCHASTIC
from hierphase.rhm.corruption import ddpm_scheduler

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: How a network denoises, with the scheduler of its folder or by the name of a sampler -> class
#: and settings that replace it, on the same noise.
SAMPLERS = {
    "own": (None, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
    "ddim": (diffusers.DDIMScheduler, {"timestep_spacing": "leading"}),
    "dpm++-2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "sde-dpm++-2m-karras": (diffusers.DPMSolverMultistepScheduler, STOCHASTIC),
}
MOST_COMPONENTS = 64  # of a class of the flat mixture, where images are few
FLAT_MIXTURE = "flat-mixture"  # a model that is fitted and not stored


class Denoised(NamedTuple):
    """What the way back from each noise level gives.

    ``samples`` (noise, n, ...) are x̂0(t); ``classes`` (noise, n) are those that samples were drawn
    from; ``ln_snr`` (noise,) are the levels taken, where they need not be those asked for;
    ``explained`` (noise, n) is that of :func:`~hierphase.analysis.calibration.explained`.
    """

    samples: torch.Tensor
    classes: torch.Tensor | None = None
    ln_snr: torch.Tensor | None = None
    explained: torch.Tensor | None = None


class ImageWorld(NamedTuple):
    """Labelled images, and what denoises them.

    Attributes:
        class_names: of the classes 0, 1, ...
        labels: (n,) class of each image; image i is the (i // n_classes)-th of its class.
        starts: gives x_0 (n, channels, height, width) and labels of a range of images.
        denoised: gives what :class:`Denoised` holds, of starts, levels ln SNR, each repetition of
            which is another draw, and a generator for each image.
        scheduler: of the noise, whose times 0 to T name its levels.
        held_out: all held-out images of a data set; None for others.
        files: of the images of a folder, in their order: class and name -> file.
        learnt: gives images and their labels to fit a world to: the training part of a data set,
            or those of a folder.
        pipeline: of a network that denoises.
        about: what a law was fitted to, in words.
    """

    class_names: Sequence[str]
    labels: torch.Tensor
    starts: Callable[[range], list[torch.Tensor]]
    denoised: Callable[..., Denoised]
    scheduler: diffusers.DDPMScheduler
    held_out: torch.Tensor | None = None
    files: dict[str, Path] = {}
    learnt: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None
    pipeline: ForwardBackwardPipeline | None = None
    about: str = ""


def ln_snrs(scheduler: diffusers.DDPMScheduler) -> torch.Tensor:
    """(T + 1,) ln SNR of the times 0 (no noise at all) to T (nothing but noise), float64."""
    alpha_bar = scheduler.alphas_cumprod.double()
    return torch.cat([torch.ones(1), alpha_bar[1:], torch.zeros(1)]).logit()


def flat_world(images, labels, names, n_per_class, generators, scheduler=None) -> ImageWorld:
    """Images drawn from the flat mixture that is fitted to others, and denoised exactly.

    Where a class has fewer images than an image numbers, covariances are principal components, one
    for four images of the smallest class, ``MOST_COMPONENTS`` at most.

    Args:
        images: (n, ...) to fit to, of classes ``labels`` (n,), whose names are ``names``.
        n_per_class: images to draw.
        generators: gives one for each row, from which its x_0 is drawn.
        scheduler: of the noise; by default that of the book.
    """
    fewest, rank = int(labels.bincount().min()), None
    if fewest < (d := images[0].numel()):
        rank = max(1, min(fewest // 4, MOST_COMPONENTS, d - 1))
    mixture = GaussianMixture.fitted(images, labels, rank=rank)
    scheduler, labels = scheduler or ddpm_scheduler(), torch.arange(len(names)).repeat(n_per_class)

    def denoised(starts, noises, generators):
        levels = torch.tensor(noises, dtype=torch.float64)
        samples, classes = mixture.round_trips(*starts, levels.sigmoid().float(), generators)
        return Denoised(samples, classes=classes, ln_snr=levels)

    def starts(rows):
        return [mixture.draw(labels[rows], generators(rows, 0)), labels[rows]]

    kind = "full covariances" if rank is None else f"{rank} principal components a class"
    about = f"{len(images)} images, {fewest} of the smallest class; {kind}"
    return ImageWorld(names, labels, starts, denoised, scheduler, about=about)


def trained_world(parameters: dict, device: torch.device) -> ImageWorld:
    """Held-out images of a data set, or those of a folder, and a trained denoiser.

    A denoiser with k^2 times the channels of the images sees squares of k x k pixels as one
    (``pixel_unshuffle``), one with an autoencoder sees latents; its noise is drawn as it sees it,
    and without noise there still is what the autoencoder loses.

    Args:
        parameters: those of :class:`~hierphase.experiments.images.ImageExperiment`; of a folder
            perhaps its ``labels``, and ``n_fitted`` images of each class that are ``learnt``.
        device: of the denoiser.

    Raises:
        FileNotFoundError: there is no such denoiser.
        ValueError: there are fewer than ``n_per_class`` images of a class.
    """
    model, scheduler, conditions, space = _denoiser(parameters, device)
    name, n_per_class = parameters["images"], parameters["n_per_class"]
    data = DATASETS[name]() if name in DATASETS else None
    colours = data.test_images.shape[1] if data else 3
    size, channels = model.config.sample_size, (space.vae if space else model).config.in_channels
    patch = next((k for k in range(1, channels) if channels == colours * k**2), 1)
    encode, decode, side = PixelUnshuffle(patch), PixelShuffle(patch), patch * size
    if space is not None:
        encode, decode, side = space.encode, space.decode, space.factor * size
    if data:
        names, labels, held_out, paths = data.class_names, data.test_labels, data.test_images, ()
        load, learnt = held_out.__getitem__, lambda: (data.train_images, data.train_labels)
    else:
        n_chosen = max(n_per_class, parameters.get("n_fitted", 0))
        folder = image_folder(name, n_chosen, side, parameters.get("labels"))
        names, labels, held_out, paths = folder.class_names, folder.labels, None, folder.paths

        def load(rows):
            images = folder.load(rows)
            return images.mean(1, keepdim=True) if channels == 1 else images

        def learnt():
            return load(range(len(labels))), labels

    of_class = [(labels == c).nonzero().flatten() for c in range(len(names))]
    positive_integer("n_per_class", n_per_class, 1, min(map(len, of_class)))
    order = torch.stack([rows[:n_per_class] for rows in of_class], 1).flatten()
    whose = f"images {name} for {parameters['model']}"
    check_shape(whose, load([0]), 1, channels // patch**2, side, side)
    told = told_classes(names, model, parameters["model_flags"].get("label", LABELS[0]))
    (kind, settings), kin = SAMPLERS[parameters["sampler"]], type(scheduler).__name__
    trained = hasattr(scheduler, "alphas_cumprod")
    if kind and not trained:
        raise ValueError(f"sampler {parameters['sampler']} is not for models of {kin}: take own")
    sampler = kind.from_config(scheduler.config, **settings) if kind else scheduler
    pipeline = ForwardBackwardPipeline(model, sampler)
    options = {key: parameters[key] for key in ("num_inference_steps", "batch_size")}
    options["autocast_dtype"] = PRECISIONS[parameters["precision"]]

    def denoised(starts, noises, generators):
        x_0, *labels = starts
        given = conditions | {name: index[labels[0]] for name, index in told.items()}
        like = {"generator": generators, "ln_snr": noises, "conditions": given}
        returned = pipeline(encoded := encode(x_0), **like, **options)
        gains = explained(returned, encoded)
        return Denoised(decode(returned.samples), ln_snr=returned.ln_snr, explained=gains)

    places = zip(labels, paths, strict=False)
    files = {f"{names[c]}: {os.path.relpath(path, name)}": path for c, path in places}
    return ImageWorld(
        names, labels[order], lambda rows: [load(order[rows]), labels[order[rows]]], denoised,
        scheduler if trained else ddpm_scheduler(), held_out, files, learnt, pipeline,
    )  # fmt: skip


def stored_model(name: str | None, images: str = "") -> Path | None:
    """Directory of a trained model of the book, else a file or directory, else None.

    Raises:
        ValueError: the model of the book is of other images than the data set ``images``.
    """
    if name in TRAININGS:
        data = TRAININGS[name].data  # the witness looks at photographs of any size
        if images in DATASETS and data not in (DATASETS[images], cifar10_features):
            raise ValueError(f"{name} was not trained on {images}: {TRAININGS[name].about}")
        return model_directory(name)
    path = Path(name or os.devnull)
    return path if path.is_file() or path.is_dir() else None


def _denoiser(parameters: dict, device: torch.device) -> Denoiser:
    path, flags = stored_model(parameters["model"], parameters["images"]), parameters["model_flags"]
    if path is None:
        remedy = "give the parameter model a model of the book, a diffusers folder, or a checkpoint"
        raise FileNotFoundError(f"no denoiser {parameters['model']!r}: {remedy}")
    flags = {name: flag for name, flag in flags.items() if name != "label"}
    if path.is_file():
        unet, scheduler = load_adm(path, **flags)
        found = Denoiser(unet, scheduler, no_text(unet))
    elif flags:
        raise ValueError(f"model_flags {flags} has no effect with {path.name}: leave it out")
    else:
        found = load_denoiser(path)
    unet, _ = found.model.to(device).eval(), found.space and found.space.vae.to(device)
    size = positive_integer(f"sample_size of {path}", unet.config.get("sample_size"))
    weights, dtype = unet.state_dict(), PRECISIONS[parameters["precision"]] or torch.float32
    if problems := differences(weights, weights, dtype):
        raise ValueError(f"{path}: {problems}: take precision float32, or other weights")
    given = found.conditions | ({"class_labels": torch.tensor([0])} if n_classes(unet) else {})
    of_latents = found.space and found.space.vae.config.latent_channels
    kind = f"{path}: {type(unet).__name__} is no model(x_t, t).sample"
    with naming(f"{kind} of images alone, or with {CONDITIONS}"), torch.no_grad(), device:
        x = torch.zeros(1, of_latents or unet.config.in_channels, size, size)
        t = torch.tensor([1] if given else 1)
        sample = unet(x, timestep=t, **{k: own.to(device) for k, own in given.items()}).sample
        check_shape("its output", sample, 1, "channels", size, size)
    if parameters["compile"]:
        unet = torch.compile(unet.to(memory_format=torch.channels_last))
    return found._replace(model=unet)
