"""The image experiment: x_0 -> x̂0(t) for many images and times, and what is measured on each.

A preset is a dictionary of parameters, so that a sweep can hash, store and compare them. ImageNet
with the paper's models, Fashion-MNIST, the digits, and flat mixtures fitted to the latter two are
presets of the one experiment below.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from diffusers import DDPMScheduler, UNet2DModel

from hierphase.analysis.frequency_bands import band_similarity, max_bands
from hierphase.analysis.gaussian_mixture import GaussianMixture
from hierphase.analysis.representations import (
    Moments,
    Standardiser,
    fit_standardisers,
    layer_similarity,
)
from hierphase.checks import all_names, positive_integer
from hierphase.diffusion import datasets
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.diffusion.guided_diffusion import load_adm
from hierphase.diffusion.image_folder import image_folder
from hierphase.networks.catalogue import TRAININGS, model_directory
from hierphase.networks.classifiers import (
    PAPER_LAYERS,
    ConvClassifier,
    class_probabilities,
    torchvision_classifier,
)
from hierphase.rhm.corruption import ddpm_scheduler
from hierphase.seeds import derived_generator

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
N_TOP = 5  # most likely classes that are stored for every image
N_BANDS = 5  # spatial scales, fewer on small images
FLAT_MIXTURE = "flat-mixture"  # a model that is fitted and not stored

#: Data sets that come whole, by name; any other value of ``images`` is a folder.
DATASETS = {"digits": datasets.digits, "fashion-mnist": datasets.fashion_mnist}

_BOOK = {
    "images": "fashion-mnist",
    "n_per_class": 100,
    "model": "fashion-mnist",
    "model_flags": {},
    "classifier": "fashion-mnist-classifier",
    "classifier_weights": None,
    "layers": ["stages.0", "stages.1", "stages.2", "logits"],
    "n_times": 20,
    "num_inference_steps": 50,
    "seed": 0,
    "batch_size": 64,
    "precision": "float32",
    "compile": False,
    "n_shown": 100,
}

#: Preset -> the parameters of :class:`ImageExperiment`.
PRESETS = {
    "fashion-mnist": _BOOK,
    "digits": _BOOK | {
        "images": "digits", "n_per_class": 30, "model": "digits",
        "classifier": "digits-classifier", "num_inference_steps": 250,
    },
    "imagenet": _BOOK | {
        "images": "imagenet/val", "n_per_class": 10, "model": "256x256_diffusion_uncond.pt",
        "classifier": "convnext_base", "classifier_weights": "IMAGENET1K_V1",
        "layers": list(PAPER_LAYERS), "n_times": 10, "num_inference_steps": 250,
        "batch_size": 16, "precision": "float16", "n_shown": 50,
    },
}  # fmt: skip
PRESETS |= {
    f"flat-{name}": PRESETS[name] | {"model": FLAT_MIXTURE, "n_shown": 10} for name in DATASETS
}


class ImageExperiment:
    """Forward-backward diffusion of labelled images, judged by a classifier and its layers.

    Image i is the (i // n_classes)-th image of class i % n_classes, so that any range of images
    is balanced. Its noise comes from (seed, class, rank within the class) alone: it stays the same
    when more images are taken, and however a sweep is split.

    Args:
        parameters: those of a preset:
            ``images`` a data set or a folder
            (:func:`~hierphase.diffusion.image_folder.image_folder`); ``n_per_class`` images of each
            class; ``model`` a trained model of the book, a directory in diffusers' layout, or a
            guided-diffusion checkpoint, with ``model_flags`` where it is not the unconditional
            256x256 model (:func:`~hierphase.diffusion.guided_diffusion.load_adm`), or
            ``flat-mixture``, the
            :class:`~hierphase.analysis.gaussian_mixture.GaussianMixture` fitted to the training
            images of the data set: it draws the starting images and denoises in one
            step; ``classifier`` a trained classifier of the book, a directory, or torchvision's
            name, whose ``classifier_weights`` are named too
            (:func:`~hierphase.networks.classifiers.torchvision_classifier`); ``layers`` the modules
            to compare, from early to late, the last of which gives the logits; ``n_times`` reversal
            times, evenly from T/n_times to T; ``num_inference_steps`` denoising steps for the whole
            way; ``seed``; ``batch_size`` rows per model call; ``precision`` of the denoiser
            (float32, bfloat16, float16); ``compile`` the denoiser with torch.compile, in
            ``channels_last`` memory; ``n_shown`` images whose pixels are kept.

    Raises:
        ValueError: a missing, unknown or bad parameter.
        FileNotFoundError: a model that does not exist.
    """

    image_dimensions = ("image", "shown")

    def __init__(self, parameters: dict):
        expected = PRESETS["digits"].keys()
        all_names(parameters, expected)
        for name in ("n_per_class", "n_times", "num_inference_steps", "batch_size"):
            positive_integer(name, parameters[name])
        for name in ("seed", "n_shown"):
            positive_integer(name, parameters[name], minimum=0)
        if parameters["precision"] not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {parameters['precision']!r}"
            )
        if len(parameters["layers"]) < 2:
            raise ValueError(f"layers must name at least two, got {parameters['layers']}")
        if parameters["model"] == FLAT_MIXTURE and parameters["images"] not in DATASETS:
            raise ValueError(
                f"a {FLAT_MIXTURE} needs images to be one of {', '.join(DATASETS)}, got "
                f"{parameters['images']!r}"
            )
        self.parameters = parameters
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _data(self) -> tuple[tuple[str, ...], torch.Tensor, Callable, torch.Tensor | None]:
        """Class names, labels (n,), load(rows) -> images, all held-out images if in memory."""
        name, n_per_class = self.parameters["images"], self.parameters["n_per_class"]
        if name in DATASETS:
            data = DATASETS[name]()
            if self.parameters["model"] == FLAT_MIXTURE:
                labels = torch.arange(len(data.class_names)).repeat(n_per_class)
                return (
                    data.class_names,
                    labels,
                    lambda rows: self._denoiser[0].draw(labels[rows], self._generators(rows, 0)),
                    None,
                )
            order = _balanced_order(data.test_labels, n_per_class, data.class_names)
            images, labels = data.test_images, data.test_labels
            return data.class_names, labels[order], lambda rows: images[order[rows]], images
        folder = image_folder(name, n_per_class, self._denoiser[0].config.sample_size)
        order = _balanced_order(folder.labels, n_per_class, folder.class_names)
        return folder.class_names, folder.labels[order], lambda rows: folder.load(order[rows]), None

    @property
    def labels(self) -> torch.Tensor:
        """(n,) class index of every starting image."""
        return self._data[1]

    @property
    def held_out(self) -> torch.Tensor | None:
        """All held-out images of a data set, (n, channels, height, width); None for a folder."""
        return self._data[3]

    def images(self, start: int, stop: int) -> torch.Tensor:
        """Starting images x_0, (stop - start, channels, height, width) in [-1, 1]."""
        return self._data[2](torch.arange(start, stop))

    def _generators(self, rows: torch.Tensor, *stream: int) -> list[torch.Generator]:
        """One for each image, from the seed, its class and its rank within the class."""
        (names, labels, *_), seed = self._data, self.parameters["seed"]
        return [
            derived_generator(seed, int(labels[i]), int(i) // len(names), *stream) for i in rows
        ]

    @cached_property
    def _denoiser(self) -> tuple[UNet2DModel | GaussianMixture, DDPMScheduler]:
        name = self.parameters["model"]
        if name == FLAT_MIXTURE:
            data = DATASETS[self.parameters["images"]]()
            return GaussianMixture.fitted(data.train_images, data.train_labels), ddpm_scheduler()
        path = _stored_model(name)
        if path is None:
            raise FileNotFoundError(
                f"no denoiser {name!r}: give the parameter model a checkpoint of guided-diffusion, "
                "a directory in diffusers' layout, or the name of a trained model of the book"
            )
        if path.is_file():
            unet, scheduler = load_adm(path, **self.parameters["model_flags"])
        else:
            unet = UNet2DModel.from_pretrained(path, subfolder="unet")
            scheduler = DDPMScheduler.from_pretrained(path, subfolder="scheduler")
        unet = unet.to(self.device).eval()
        if self.parameters["compile"]:
            unet = torch.compile(unet.to(memory_format=torch.channels_last))
        return unet, scheduler

    @cached_property
    def classifier(self) -> torch.nn.Module:
        """Maps images (n, channels, height, width) to class logits."""
        name, weights = self.parameters["classifier"], self.parameters["classifier_weights"]
        directory = _stored_model(name)
        if directory is None:
            classifier = torchvision_classifier(name, weights)
        else:
            classifier = ConvClassifier.from_pretrained(directory)
        return classifier.to(self.device).eval()

    def times(self) -> torch.Tensor:
        """(n_times + 1,) reversal times, 0 to T."""
        n, T = self.parameters["n_times"], self._denoiser[1].config.num_train_timesteps
        return torch.linspace(0, T, n + 1, dtype=torch.float64).round().long()

    def fingerprint(self) -> str:
        """SHA-256 of the files of denoiser and classifier: the numbers depend on them too."""
        digest = hashlib.sha256()
        for name in (self.parameters["model"], self.parameters["classifier"]):
            path = _stored_model(name)
            if path is None:
                continue  # torchvision's, or fitted to a data set: fixed by the name
            for file in [path] if path.is_file() else sorted(path.rglob("*.safetensors")):
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def prepare(self) -> xr.Dataset:
        """Statistics over reference images that every shard needs; computed once.

        The reference is the whole held-out set, or the starting images of a folder.

        Returns:
            ``mean`` and ``std`` of every channel of every layer along ``channel``, whose coordinate
            ``layer`` says whose it is; ``mean_image`` (colour, row, column).
        """
        _, labels, load, held_out = self._data
        batches = (
            held_out.split(256)
            if held_out is not None
            else map(load, torch.arange(len(labels)).split(64))
        )
        moments = Moments()

        def watched():
            for batch in batches:
                moments.update(batch.flatten(1))
                yield batch.to(self.device)

        scales = fit_standardisers(self.classifier, watched(), self.parameters["layers"])
        shape = self.images(0, 1).shape[1:]
        channels = [len(scale.mean) for scale in scales.values()]
        return xr.Dataset(
            {
                "mean": ("channel", torch.cat([s.mean for s in scales.values()]).cpu().numpy()),
                "std": ("channel", torch.cat([s.std for s in scales.values()]).cpu().numpy()),
                "mean_image": (
                    ("colour", "row", "column"),
                    moments.standardiser().mean.reshape(shape).cpu().numpy(),
                ),
            },
            coords={"layer": ("channel", np.repeat(list(scales), channels))},
        )

    def reconstructions(self, start: int, stop: int, timesteps: Sequence[int]) -> torch.Tensor:
        """x̂0(t) of images start..stop - 1, (n_times, stop - start, channels, height, width).

        Args:
            start: first image.
            stop: one past the last.
            timesteps: reversal times, 0 to T; each repetition of one is another draw.
        """
        return self._reconstructed(torch.arange(start, stop), timesteps)[0].to(self.device)

    def _reconstructed(self, rows, timesteps) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x̂0(t) of the images ``rows``, and the class of each where it is known, (n_times, n)."""
        model, scheduler = self._denoiser
        x0, generators = self._data[2](rows), self._generators(rows)
        if isinstance(model, GaussianMixture):
            levels = torch.cat([torch.ones(1), scheduler.alphas_cumprod[1:], torch.zeros(1)])
            return model.round_trips(x0, self.labels[rows], levels[timesteps], generators)
        returned = ForwardBackwardPipeline(model, scheduler)(
            x0, timesteps, self.parameters["num_inference_steps"], generators,
            self.parameters["batch_size"], autocast_dtype=PRECISIONS[self.parameters["precision"]],
        )  # fmt: skip
        return returned.samples, None

    def measure(self, start: int, stop: int, prepared: xr.Dataset) -> xr.Dataset:
        """The experiment on images start..stop - 1.

        Args:
            start: first image.
            stop: one past the last.
            prepared: what :meth:`prepare` gave.

        Returns:
            Along ``time`` (fractions t/T, 0 included) and ``image``: ``top_class`` and
            ``top_probability`` (also ``rank``), the most likely classes of x̂0(t);
            ``class_probability`` of the first choice for x_0; ``similarity``,
            ``similarity_uncentred`` and ``distance`` (also ``layer``); ``band_similarity`` (also
            ``band``, from fine to coarse). Along ``image``: ``label``. Along ``shown``: ``pixels``
            of x̂0(t), 0..255, of the images below n_shown. Of a flat mixture also ``true_class``
            (time, image), which x̂0(t) was drawn from.
        """
        times = self.times()
        samples, true_class = self._reconstructed(torch.arange(start, stop), times.tolist())
        x0, samples = self.images(start, stop).to(self.device), samples.to(self.device)
        probability = torch.stack([class_probabilities(self.classifier, x) for x in samples]).cpu()
        top = probability.topk(min(N_TOP, probability.shape[2]), dim=2)
        first = top.indices[0, :, 0].expand(len(times), -1)[..., None]
        scales = self._scales(prepared)
        layers = layer_similarity(self.classifier, x0, samples, scales)
        uncentred = layer_similarity(
            self.classifier,
            x0,
            samples,
            {name: replace(scale, uncentred=True) for name, scale in scales.items()},
        )
        mean_image = torch.from_numpy(prepared.mean_image.values).to(self.device)
        n_bands = min(N_BANDS, max_bands(min(x0.shape[-2:])))
        shown = max(0, min(stop, self.parameters["n_shown"]) - start)
        pixels = ((samples[:, :shown].clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
        by_layer = ("layer", "time", "image")
        measured = xr.Dataset(
            {
                "label": ("image", self.labels[start:stop].short().numpy()),
                "top_class": (("time", "image", "rank"), top.indices.short().numpy()),
                "top_probability": (("time", "image", "rank"), top.values.numpy()),
                "class_probability": (
                    ("time", "image"),
                    probability.gather(2, first)[..., 0].numpy(),
                ),
                "similarity": (by_layer, layers.cosine.numpy()),
                "similarity_uncentred": (by_layer, uncentred.cosine.numpy()),
                "distance": (by_layer, layers.distance.numpy()),
                "band_similarity": (
                    ("band", "time", "image"),
                    band_similarity(x0, samples, mean_image, n_bands).cpu().numpy(),
                ),
                "pixels": (("time", "shown", "colour", "row", "column"), pixels.numpy()),
            },
            coords={
                "image": np.arange(start, stop),
                "time": times.numpy() / int(times[-1]),
                "layer": list(scales),
                "class_name": ("class", list(self._data[0])),
            },
        )
        if true_class is not None:
            measured["true_class"] = (("time", "image"), true_class.short().numpy())
        return measured

    def _scales(self, prepared: xr.Dataset) -> dict[str, Standardiser]:
        scales = {}
        for name in self.parameters["layers"]:
            of_layer = prepared.isel(channel=prepared.layer.values == name)
            mean, std = (torch.from_numpy(of_layer[k].values) for k in ("mean", "std"))
            scales[name] = Standardiser(mean.to(self.device), std.to(self.device))
        return scales


def _stored_model(name: str) -> Path | None:
    """Directory of a trained model of the book, else a file or directory, else None."""
    if name in TRAININGS:
        return model_directory(name)
    return Path(name) if Path(name).exists() else None


def _balanced_order(
    labels: torch.Tensor, n_per_class: int, class_names: Sequence[str]
) -> torch.Tensor:
    """Indices of the first n_per_class images of each class: the first of all, the second, ..."""
    of_class = [(labels == c).nonzero().flatten() for c in range(len(class_names))]
    fewest = min(len(rows) for rows in of_class)
    if n_per_class > fewest:
        scarce = class_names[min(range(len(of_class)), key=lambda c: len(of_class[c]))]
        raise ValueError(
            f"n_per_class must be at most {fewest}, the images of class {scarce!r}, got "
            f"{n_per_class}"
        )
    return torch.stack([rows[:n_per_class] for rows in of_class], dim=1).flatten()
