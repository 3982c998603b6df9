"""The image experiment: x_0 -> x̂0(t) for many images and times, and what is measured on each.

A preset is a dictionary of parameters, so that a sweep can hash, store and compare them. ImageNet
with the paper's models, the data sets with models of the book, flat mixtures fitted to these, and
published models of diffusers are presets of the one experiment below.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
import xarray as xr

from hierphase.analysis import representations
from hierphase.analysis.frequency_bands import band_similarity, max_bands
from hierphase.analysis.speciation import reversal_time
from hierphase.checks import check_known, positive_integer
from hierphase.diffusion.datasets import DATASETS
from hierphase.diffusion.labels import class_indices
from hierphase.diffusion.model_folders import model_files
from hierphase.experiments import worlds
from hierphase.experiments.base import Experiment
from hierphase.networks import classifiers
from hierphase.seeds import derived_generator

N_TOP = 5  # most likely classes that are stored for every image
N_BANDS = 5  # spatial scales, fewer on small images
CLASSIFIED = 16  # images in a call of the classifier, always: its last bits depend on it

#: Parameters that do nothing where no network denoises.
_OF_NETWORKS = ("sampler", "num_inference_steps", "batch_size", "precision", "compile")

_BOOK = {
    "n_per_class": 100, "model_flags": {}, "classifier_weights": None,
    "layers": ["stages.0", "stages.1", "stages.2", "logits"], "n_times": 20,
    "sampler": "sde-dpm++-2m-karras", "num_inference_steps": 100, "seed": 0, "batch_size": 64,
    "precision": "float32", "compile": False, "n_shown": 100,
}  # fmt: skip

#: Preset -> the parameters of :class:`ImageExperiment`.
PRESETS = {}
for _name in worlds.DATASETS:
    PRESETS[_name] = _BOOK | {"images": _name, "model": _name, "classifier": f"{_name}-classifier"}
PRESETS["digits"]["n_per_class"] = 30
PRESETS["imagenet"] = _BOOK | {
    "images": "imagenet/val", "n_per_class": 10, "model": "256x256_diffusion_uncond.pt",
    "classifier": "convnext_base", "classifier_weights": "IMAGENET1K_V1",
    "layers": list(classifiers.PAPER_LAYERS), "n_times": 10, "sampler": "own",
    "num_inference_steps": 250, "batch_size": 16, "precision": "float16", "n_shown": 50,
}  # fmt: skip
# Published models of diffusers, in local folders; images of a folder, and a classifier of theirs or
# of ImageNet.
PRESETS["ddpm-cifar10-32"] = PRESETS["cifar10-32"] | {"model": "ddpm-cifar10-32"}
for _name in ("celebahq", "church", "bedroom"):
    PRESETS[f"ddpm-{_name}-256"] = PRESETS["imagenet"] | {
        "images": _name, "model": f"ddpm-{_name}-256", "n_per_class": 500,
        "sampler": _BOOK["sampler"], "num_inference_steps": 100,
    }  # fmt: skip
_own = {"classifier": "celebahq-classifier", "classifier_weights": None, "layers": _BOOK["layers"]}
PRESETS["ddpm-celebahq-256"] |= _own
#: Samplers and their numbers of steps that are compared on a few images of two data sets.
COMPARED = [("ddpm", 50), ("ddpm", 250), ("dpm++-2m", 50)]
COMPARED += [("sde-dpm++-2m-karras", n) for n in (25, 50, 100)]
for _name in ("cifar10-8", "cifar10-16"):  # their class goes at little noise
    PRESETS[_name] |= {"n_per_class": 25, "n_times": 40, "n_shown": 20}
    _other = {"classifier": "cifar10-witness", "layers": ["network._blocks.15", "logits"]}
    PRESETS[f"{_name}-witness"] = PRESETS[_name] | _other | {"n_shown": 0}
for _name in worlds.DATASETS:
    PRESETS[f"flat-{_name}"] = PRESETS[_name] | {"model": worlds.FLAT_MIXTURE, "n_shown": 10}
for _name in ("digits", "fashion-mnist"):
    _few = PRESETS[_name] | {"n_per_class": 10, "n_times": 10, "n_shown": 0}
    for _kind, _n in COMPARED:
        PRESETS[f"{_name}-{_kind}-{_n}"] = _few | {"sampler": _kind, "num_inference_steps": _n}


def filled(x0: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, ...) and their samples (..., n, ...), repeated up to whole calls of a classifier.

    So that what is measured of an image does not depend on how many are with it in a shard.
    """
    rows = torch.arange(-(-len(x0) // CLASSIFIED) * CLASSIFIED, device=x0.device) % len(x0)
    return x0[rows], samples.index_select(-x0.ndim, rows)


class ImageExperiment(Experiment):
    """Forward-backward diffusion of labelled images, judged by a classifier and its layers.

    Image i is the (i // n_classes)-th image of class i % n_classes, so that any range of images
    is balanced. Its noise comes from (seed, class, rank within the class) alone: it stays the same
    when more images are taken, and however a sweep is split.

    Args:
        parameters: those of a preset:
            ``images`` a data set or a folder
            (:func:`~hierphase.diffusion.image_folder.image_folder`);
            ``n_per_class`` images of each class; ``model`` a trained model of the book, a directory
            in diffusers' layout (:func:`~hierphase.diffusion.model_folders.load_denoiser`), or a
            guided-diffusion checkpoint, with ``model_flags`` where it is not the unconditional
            256x256 model (:func:`~hierphase.diffusion.guided_diffusion.load_adm`); of a model that
            is told classes, the flag ``label`` says which
            (:func:`~hierphase.diffusion.labels.told_classes`); or
            ``flat-mixture``, which is fitted to the training images of the data set, draws the
            starting images and denoises in one step
            (:class:`~hierphase.analysis.gaussian_mixture.GaussianMixture`);
            ``classifier`` a trained classifier of the book, a directory, or torchvision's name,
            whose ``classifier_weights`` are named too
            (:func:`~hierphase.networks.classifiers.torchvision_classifier`); ``layers`` the modules
            to compare, from early to late, the last of which gives the logits; ``n_times`` reversal
            times, evenly from T/n_times to T;
            ``sampler`` of :data:`~hierphase.experiments.worlds.SAMPLERS` and its
            ``num_inference_steps`` for the whole way (each time is taken at the nearest of these
            steps); ``seed``; ``batch_size`` rows
            per model call; ``precision`` of the denoiser (float32, bfloat16, float16);
            ``compile`` the denoiser with torch.compile, in ``channels_last`` memory; ``n_shown``
            images whose pixels are kept.

    Raises:
        ValueError: a missing, unknown or bad parameter.
        FileNotFoundError: a model that does not exist.
    """

    presets = PRESETS
    unit_dimensions = ("image", "shown")
    least = {"n_shown": 0}
    choices = {"precision": worlds.PRECISIONS, "sampler": worlds.SAMPLERS}

    def __init__(self, parameters: dict):
        super().__init__(parameters)
        if len(layers := parameters["layers"]) < 2 or len({*layers}) < len(layers):
            raise ValueError(f"layers must name at least two, each once, got {layers}")
        if parameters["model"] == worlds.FLAT_MIXTURE:
            check_known("images of a flat mixture", parameters["images"], worlds.DATASETS)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def __len__(self) -> int:
        return len(self.world.labels)

    @cached_property
    def world(self) -> worlds.ImageWorld:
        """The starting images, and how they are denoised."""
        if self.p.model == worlds.FLAT_MIXTURE:
            data, n = DATASETS[self.p.images](), self.p.n_per_class
            fitted = data.train_images, data.train_labels, data.class_names
            return worlds.flat_world(*fitted, n, self.generators)
        return worlds.trained_world(self.parameters, self.device)

    @cached_property
    def classifier(self) -> torch.nn.Module:
        """Maps images (n, channels, height, width) to class logits."""
        name, directory = self.p.classifier, worlds.stored_model(self.p.classifier, self.p.images)
        found = directory and classifiers.load_classifier(directory)
        found = found or classifiers.torchvision_classifier(name, self.p.classifier_weights)
        return found.to(self.device).eval()

    @cached_property
    def classes(self) -> torch.Tensor:
        """Index that the classifier gives to each class of the images."""
        return torch.tensor(class_indices(self.world.class_names, self.classifier.namings))

    def times(self) -> torch.Tensor:
        """(n_times + 1,) reversal times, 0 to T."""
        n, T = self.p.n_times, self.world.scheduler.config.num_train_timesteps
        return torch.linspace(0, T, n + 1, dtype=torch.float64).round().long()

    def check(self) -> None:
        """As of the base: also that no parameter is without effect."""
        judge = worlds.stored_model(self.p.classifier)
        unused = {"classifier_weights": self.p.classifier} if judge else {}
        if self.p.model == worlds.FLAT_MIXTURE:
            unused |= dict.fromkeys(("model_flags", *_OF_NETWORKS), worlds.FLAT_MIXTURE)
        for parameter, owner in unused.items():
            value = self.parameters[parameter]
            if all(value != preset[parameter] for preset in PRESETS.values()):
                raise ValueError(f"{parameter} {value!r} has no effect with {owner}: leave it out")
        T = self.world.scheduler.config.num_train_timesteps
        for parameter in {"n_times", "num_inference_steps"} & self.parameters.keys():
            positive_integer(parameter, self.parameters[parameter], 1, T)
        x_0 = self.world.starts(range(1))[0].to(self.device)
        representations.activations(self.classifier, x_0, self.p.layers)
        len(self.classes)  # refused here where the names of classes do not match

    def files(self) -> dict[str, dict[str, Path]]:
        """Those of denoiser, classifier (torchvision's have fixed names) and a folder's images."""
        names = ("model", "classifier", "classifier_weights")
        paths = {name: worlds.stored_model(self.parameters[name]) for name in names}
        files = {name: model_files(path) for name, path in paths.items() if path is not None}
        return files | ({"images": self.world.files} if self.world.files else {})

    def prepare(self) -> xr.Dataset:
        """Statistics over reference images that every shard needs; computed once.

        The reference is the whole held-out set, or the starting images.

        Returns:
            ``mean`` and ``std`` of every channel of every layer along ``channel``, whose coordinate
            ``layer`` says whose it is; ``mean_image`` (colour, row, column).
        """
        rows = range(len(self))
        batches = (self.world.starts(rows[i : i + 64])[0] for i in rows[::64])
        if self.world.held_out is not None:
            batches = self.world.held_out.split(256)
        moments = representations.Moments()

        def watched():
            for batch in batches:
                moments.update(batch.flatten(1))
                yield batch.to(self.device)

        scales = representations.fit_standardisers(self.classifier, watched(), self.p.layers)
        mean_image = moments.standardiser().mean.reshape(self.world.starts(range(1))[0].shape[1:])
        images = ("colour", "row", "column"), mean_image.cpu().numpy()
        return representations.as_dataset(scales).assign(mean_image=images)

    def generators(self, rows: Sequence[int], *stream: int) -> list[torch.Generator]:
        """One for each image, from the seed, its class and its rank within the class."""
        seed, n_classes = self.p.seed, len(self.world.class_names)
        return [derived_generator(seed, i % n_classes, i // n_classes, *stream) for i in rows]

    def round_trips(self, start: int, stop: int, times: torch.Tensor) -> tuple:
        """Images start..stop - 1, and their x̂0(t), on the experiment's device.

        Args:
            start: first image.
            stop: one past the last.
            times: reversal times, 0 to T; each repetition of one is another draw.

        Returns:
            x_0 (stop - start, channels, height, width) in [-1, 1], and what the world gives.
        """
        rows, levels = range(start, stop), worlds.ln_snrs(self.world.scheduler)[times]
        starts = self.world.starts(rows)
        denoised = self.world.denoised(starts, levels.tolist(), self.generators(rows))
        samples = denoised.samples.to(self.device)
        return starts[0].to(self.device), denoised._replace(samples=samples)

    def levels(self, ln_snr: torch.Tensor) -> dict:
        """Coordinates of levels: ``time``, their t/T by interpolation, and ``ln_snr``."""
        time = reversal_time(ln_snr, worlds.ln_snrs(self.world.scheduler))
        return {"time": time, "ln_snr": ("time", ln_snr.numpy())}

    def compared(self, x0: torch.Tensor, samples: torch.Tensor, ln_snr, prepared: xr.Dataset):
        """What the classifier sees of images (n, ...) and samples (time, n, ...), in whole calls.

        Returns:
            What :meth:`measure` gives along ``time`` and ``image``.
        """
        n, (x0, samples) = len(x0), filled(x0, samples)
        scales = representations.from_dataset(prepared, self.device)
        layers = representations.layer_similarity(self.classifier, x0, samples, scales, CLASSIFIED)
        likely = [classifiers.class_probabilities(self.classifier, x, CLASSIFIED) for x in samples]
        likely = torch.stack(likely).cpu()
        top = likely.topk(min(N_TOP, likely.shape[2]), dim=2)
        first = top.indices[0, :, 0].expand(len(samples), -1)[..., None]
        mean_image = torch.from_numpy(prepared.mean_image.values).to(self.device)
        n_bands = min(N_BANDS, max_bands(min(x0.shape[-2:])))
        bands = band_similarity(x0, samples, mean_image, n_bands).cpu()
        of_image = ("time", "image")
        of_rank, of_layer = (*of_image, "rank"), ("layer", *of_image)
        measured = {
            "top_class": (of_rank, top.indices.short().numpy()),
            "top_probability": (of_rank, top.values.numpy()),
            "class_probability": (of_image, likely.gather(2, first)[..., 0].numpy()),
            "similarity": (of_layer, layers.cosine.numpy()),
            "similarity_uncentred": (of_layer, layers.uncentred.numpy()),
            "distance": (of_layer, layers.distance.numpy()),
            "band_similarity": (("band", *of_image), bands.numpy()),
        }
        names = {"layer": self.p.layers, "class_name": ("class", list(self.classifier.namings[0]))}
        return xr.Dataset(measured, self.levels(ln_snr) | names).isel(image=slice(n))

    def measure(self, start: int, stop: int, prepared: xr.Dataset) -> xr.Dataset:
        """The experiment on images start..stop - 1.

        Arguments are those of :meth:`hierphase.experiments.base.Experiment.measure`.

        Returns:
            Along ``time`` (fractions t/T of the levels taken, 0 included; also ``ln_snr``) and
            ``image``: ``top_class`` and ``top_probability`` (also ``rank``), the most likely
            classes of x̂0(t); ``class_probability`` of the first choice for x_0; ``similarity``,
            ``similarity_uncentred`` and ``distance`` (also ``layer``); ``band_similarity`` (also
            ``band``, from fine to coarse). Along ``image``: ``label``. Along ``shown``: ``pixels``
            of x̂0(t), 0..255, of the images below n_shown. Of a flat mixture also ``true_class``
            (time, image), which x̂0(t) was drawn from; of a network ``explained``, what
            :func:`~hierphase.analysis.calibration.calibration` averages. All classes are indices of
            those of the classifier, whose names are ``class_name``.
        """
        x0, denoised = self.round_trips(start, stop, self.times())
        measured = self.compared(x0, denoised.samples, denoised.ln_snr, prepared)
        measured = measured.assign_coords(image=range(start, stop))
        measured["label"] = "image", self.classes[self.world.labels[start:stop]].short().numpy()
        shown = denoised.samples[:, : max(0, self.p.n_shown - start)].clamp(-1, 1)
        pixels = ((shown + 1) * 127.5).round().byte().cpu()
        measured["pixels"] = ("time", "shown", "colour", "row", "column"), pixels.numpy()
        of_image = "time", "image"
        if denoised.classes is not None:
            measured["true_class"] = of_image, self.classes[denoised.classes].short().numpy()
        if denoised.explained is not None:
            measured["explained"] = of_image, denoised.explained.float().numpy()
        return measured
