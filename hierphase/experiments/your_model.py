"""Any denoiser and any images: where the class goes, beside a flat mixture of the same images.

It is the experiment of :mod:`~hierphase.experiments.images` under the name ``your-model``, run
twice, and what the chapters read off it. The page of that name shows a measurement, and is its
report.
"""

import timeit
from functools import cached_property
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import pandas as pd
import torch
import xarray as xr

from hierphase import files
from hierphase.analysis import representations
from hierphase.analysis.bootstrap import Estimate
from hierphase.checks import positive_integer
from hierphase.diffusion.datasets import DATASETS
from hierphase.diffusion.forward_backward import ROWS_PER_CALL
from hierphase.diffusion.image_folder import class_sizes
from hierphase.diffusion.samplers import SamplerRun
from hierphase.experiments import images, worlds
from hierphase.networks import classifiers
from hierphase.networks.catalogue import TRAININGS
from hierphase.parameters import check_values
from hierphase.runs import chapters, results, sweep

IMAGENET_NETWORK = "cifar10-witness"  # whose features judge where there is no classifier
N_IMAGES, N_FITTED, N_LAYERS = 200, 1000, 5
#: A class is read off the classifier's own logits, or off the nearest mean of its features over the
#: labelled images, or over their clusters.
CLASSES = ("classifier", "labels", "clusters")
PRESET = images.PRESETS["digits"] | {
    "n_per_class": 20, "n_shown": 10, "labels": "", "classes": CLASSES[0], "clusters": 10,
    "n_fitted": 100, "null": False,
}  # fmt: skip


class OwnImages(images.ImageExperiment):
    """The image experiment of a reader's own model and images, or of the mixture fitted to these.

    Args:
        parameters: those of :class:`~hierphase.experiments.images.ImageExperiment`, and
            ``labels``, a CSV of a folder's images, or ""
            (:func:`~hierphase.diffusion.image_folder.image_folder`); ``classes``, one of
            :data:`CLASSES`, and the number of ``clusters``; ``n_fitted`` images of each class of a
            folder, that the means of the features and the mixture are fitted to (the mixture of a
            data set is fitted to all of its training images); ``null``, whether it is the mixture
            that is measured, at the same levels of noise.
    """

    presets = {"measured": PRESET, "null": PRESET | {"null": True}}
    choices = images.ImageExperiment.choices | {"classes": CLASSES}

    @cached_property
    def own(self) -> worlds.ImageWorld:
        """The images and their denoiser; where clusters are the classes, theirs bear no names."""
        found = worlds.trained_world(self.parameters, self.device)
        names = [""] * len(found.class_names) if self.p.classes == "clusters" else found.class_names
        return found._replace(class_names=names)

    @cached_property
    def classifier(self) -> torch.nn.Module:
        """As of the base, with its own classes or those of the images."""
        network, p, names = super().classifier, self.p, self.own.class_names
        if p.classes == "classifier":
            return network
        rows = slice(p.n_fitted * len(names))  # of a data set; a folder has no more
        fitted, labels = (x[rows] for x in self.own.learnt())
        labels = None if p.classes == "clusters" else labels
        batches = fitted.to(self.device).split(64)
        return classifiers.nearest_mean(network, batches, names, labels, p.clusters)

    @cached_property
    def world(self) -> worlds.ImageWorld:
        """The images, or the null."""
        if not self.p.null:
            return self.own
        (fitted, labels), names, n = self.own.learnt(), self.own.class_names, self.p.n_per_class
        if self.p.classes == "clusters":
            names, n = self.classifier.namings[0], -(-len(self.own.labels) // self.p.clusters)
            judged = map(self.classifier, fitted.to(self.device).split(64))
            labels = torch.cat([logits.argmax(dim=1).cpu() for logits in judged])
        flat = worlds.flat_world(fitted, labels, names, n, self.generators, self.own.scheduler)
        return flat._replace(files=self.own.files)

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """All images, ``schedule``, ln SNR of times 1 to T - 1; what the null was fitted to.

        Of a denoiser instead the ``law`` of its sampler, "draws" or "deterministic", and by which
        share this is off the variance of Gaussian data, ``variance_error`` (of a network that says
        a variance itself, for the least that it can say).
        """
        schedule = "step", worlds.ln_snrs(self.world.scheduler)[1:-1].numpy()
        known = {"fitted": self.world.about}
        if self.world.pipeline is not None:
            run = SamplerRun(self.world.pipeline.scheduler, self.p.num_inference_steps)
            law = "draws" if run.draws_noise else "deterministic"
            known |= {"law": law, "variance_error": run.variance_error(0)}
        return merged.assign(schedule=schedule).assign_attrs(known)


class Measurement(xr.Dataset):
    """What :func:`measure_transition` returns: a data set that shows its numbers in words first."""

    __slots__ = ()
    _repr_html_ = None

    def __repr__(self):
        return f"{self.table().to_string()}\n\n{super().__repr__()}"

    def table(self) -> pd.DataFrame:
        """The numbers with their intervals, beside those of the null, in words."""
        said = {n: x.long_name for n, x in self.data_vars.items() if "long_name" in x.attrs}
        found = [[f"{self.estimate(n + end):.3g}" for end in ("", "_null")] for n in said]
        words = [[x.replace("nan (nan to nan)", "not found") for x in row] for row in found]
        return pd.DataFrame(words, [*said.values()], ["measured", "flat mixture"])

    def estimate(self, name: str) -> Estimate:
        """A number or a curve with its interval."""
        return Estimate(*(self[name + part].values[()] for part in ("", "_low", "_high")))


def measure_transition(
    model, images, labels=None, classifier=None, clusters=None, limit=None, output=None,
    shard_size=16, executor=None, **changes,
):  # fmt: skip
    """Where a denoiser loses the class of some images, beside the flat mixture of these images.

    It goes on where an earlier call with the same arguments was interrupted. Left in the output
    directory: ``report.html``, the page ``your-model`` of these images, which computes what is
    returned, ``measure.nc``; ``reconstructions.png``; ``your-model-measured.nc`` and
    ``your-model-null.nc``, all of both sweeps (:class:`OwnImages`); shards.

    Args:
        model: a trained model of the book, a folder in diffusers' layout, or a checkpoint of
            guided-diffusion, with ``model_flags``.
        images: a data set of the book (its held-out part), or a folder of images, which are resized
            and cropped to the size of the model: a folder for each class, or all together.
        labels: a CSV of the folder's images, ``file,label``. Where no class is known, classes are
            the images' clusters.
        classifier: a classifier of the book, a folder of one, or torchvision's name; by default
            that of the book's data set or model, else the nearest class mean in the features of a
            network trained on ImageNet.
        clusters: that many clusters (k-means) of the classifier's features are the classes, also
            where labels are known; 10 where they are not.
        limit: images in all, as many of each class; by default 200 or what there is.
        output: directory; by default ``runs/your-model``.
        shard_size: as of :func:`~hierphase.experiments.registry.run_sweep`.
        executor: likewise.
        changes: more parameters of :class:`OwnImages`: ``n_times``, ``num_inference_steps``,
            ``layers``, ``sampler``, ``batch_size``, ``precision``, ``model_flags``, ``seed`` ...

    Returns:
        A data set of numbers: ``t_star``, ``half_snr``, ``width``, ``width_per_image`` and
        ``crossing`` (of the first layer and the last); along ``time`` the curves ``kept`` and,
        off 0 where the denoiser does not draw from the posterior, ``calibration``; along ``layer``
        and ``time`` ``similarity``; along ``layer`` ``persistence``, of ``matched`` images. Each
        with its 95% interval over images, ``_low`` and ``_high``, and its null: ``_null``,
        ``_null_low``, ``_null_high`` (along ``time_null``). NaN where there is none, or too few
        images tell. Attributes: ``law`` and ``variance_error`` (:meth:`OwnImages.finish`).

    Raises:
        ValueError: as of the sweep, or more images than there are.
        FileNotFoundError: no such model or folder.

    Example:
        >>> from hierphase import measure_transition
        >>> small = {"limit": 10, "n_times": 4, "num_inference_steps": 50}
        >>> digits = measure_transition("digits", "digits", output="runs/own", **small)
        >>> bool(0 < digits.t_star < 1)
        True
    """
    if isinstance(executor, str):
        raise ValueError(f"executor must be what open_executor gives, or None, got {executor!r}")
    parameters = chosen(model, images, labels, classifier, clusters, limit, **changes)
    output = files.output_directory(output or "runs/your-model")
    both_sweeps(parameters, output, shard_size, executor)
    notebook = chapters.run("your-model", {"measured": str(output)}, output)
    chapters.page(notebook, output / "report.html")
    return opened(output)


def both_sweeps(parameters: dict, output, shard_size=16, executor=None) -> None:
    """The sweeps of :func:`measure_transition`, of :func:`chosen` parameters."""
    for null, preset in enumerate(OwnImages.presets):
        own = parameters | {"null": bool(null)}
        sweep.run_sweep(OwnImages, "your-model", preset, own, output, shard_size, executor)


def opened(folder) -> Measurement:
    """What :func:`measure_transition` has left in a folder."""
    stored = results.read(Path(folder, "measure.nc"))
    return Measurement(stored.data_vars, stored.coords, stored.attrs)


def chosen(model, images, labels=None, classifier=None, clusters=None, limit=None, **changes):
    """The parameters of a measurement; arguments and errors are those of `measure_transition`."""
    for x in (model, images, labels, classifier):
        if not isinstance(x, str | Path | None):
            raise ValueError(f"model, images and others must be names or paths, got {type(x)}")
    if settled := changes.keys() & {"n_per_class", "null"}:
        raise ValueError(f"{min(settled)} has no effect: arguments and limit settle it")
    model, images = str(model), str(images)
    if not images:
        raise ValueError("images must be a data set of the book or a folder, got ''")
    if model not in TRAININGS and Path(model).is_dir() and not [*Path(model).rglob("*config.json")]:
        raise ValueError(f"{model} holds no model (config.json): the model comes before the images")
    if images in DATASETS:
        if labels:
            raise ValueError(f"labels {labels} have no effect with the data set {images}")
        sizes = dict(enumerate(DATASETS[images]().test_labels.bincount().tolist()))
    else:
        many = max(N_FITTED, positive_integer("limit", limit or 1))
        sizes = class_sizes(images, labels or "", many)
    n_classes, most, there = len(sizes), min(sizes.values()), sum(sizes.values())
    if limit is None and n_classes * most < min(N_IMAGES, there / 2):
        few = f"class {min(sizes, key=sizes.get)!r} has {most} of {there} usable images"
        raise ValueError(f"{few}, and each class would give {most}: mend labels, or give limit")
    what = f"limit, of images in {n_classes} classes, the smallest of {most},"
    total = min(N_IMAGES, n_classes * most) if limit is None else limit
    n = positive_integer(what, total, n_classes, n_classes * most) // n_classes
    of_book = (f"{x}-classifier" for x in (images, model) if f"{x}-classifier" in TRAININGS)
    network = str(classifier or next(of_book, IMAGENET_NETWORK))
    by = "clusters" if clusters is not None or "" in sizes else CLASSES[network == IMAGENET_NETWORK]
    given = {
        "model": model, "images": images, "labels": str(labels or ""), "n_per_class": n,
        "classifier": network, "classes": by, "n_fitted": max(n, min(most, N_FITTED // n_classes)),
    } | ({} if clusters is None else {"clusters": clusters})  # fmt: skip
    parameters = PRESET | check_values("a measurement", PRESET, given | changes)
    if "layers" not in changes:
        network = super(OwnImages, OwnImages(parameters)).classifier
        lists = (torch.nn.ModuleList, torch.nn.Sequential)
        name, parts = next((n, m) for n, m in network.named_modules() if isinstance(m, lists))
        places = np.linspace(0, len(parts) - 1, min(len(parts), N_LAYERS)).round().astype(int)
        parameters["layers"] = [f"{name}.{[*parts._modules][k]}" for k in places] + ["logits"]
    return OwnImages(parameters).parameters


def plan(parameters: dict, shard_size: int = 16) -> str:
    """What a measurement loads and takes, in words; nothing is written.

    Args:
        parameters: of :func:`chosen`.
        shard_size: as of the sweep.
    """
    experiment, p = OwnImages(parameters), OwnImages(parameters).p
    experiment.check()
    world, n, on_gpu = experiment.world, len(experiment), experiment.device.type == "cuda"
    levels = worlds.ln_snrs(world.scheduler)[experiment.times()].tolist()
    rows = world.pipeline.rows_by_call(levels, p.num_inference_steps)
    size = p.batch_size if on_gpu else min(p.batch_size, ROWS_PER_CALL)
    shard_size = positive_integer("shard_size", shard_size)
    shards = [min(shard_size, n - i) for i in range(0, n, shard_size)]
    calls = sum(-(-k * own // size) for own in shards for k in rows.values())
    judged = 2 * len(levels) * sum(-(-own // images.CLASSIFIED) for own in shards)
    x_0 = world.starts(range(1))
    seen = x_0[0].expand(images.CLASSIFIED, *x_0[0].shape[1:]).to(experiment.device)

    def seconds(work):
        return min(timeit.repeat(work, number=1, repeat=2))

    call = seconds(lambda: world.denoised(x_0, [99.0], experiment.generators(range(1))))
    judge = seconds(lambda: representations.activations(experiment.classifier, seen, p.layers))
    minutes = (calls * call + 2 * judged * judge) / 60  # the null is judged as well
    used = torch.cuda.max_memory_allocated() if on_gpu else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    numbers = n * (24 * len(p.layers) + 160) + 2 * min(n, p.n_shown) * x_0[0].numel()
    return f"""denoiser: {p.model}, {world.pipeline.model.num_parameters():,} weights
images: {p.images}, {n} in {len(world.class_names)} classes, {tuple(seen.shape[1:])}
classes: {len(experiment.classifier.namings[0])}, of {p.classes}, by {p.classifier}
calls of the denoiser: {calls:,} of {size} rows; {n * sum(rows.values()):,} rows are needed
time: {minutes:.3g} minutes of one worker, {call:.3g} s a call; and half a minute for the report
memory: {used / 1e9:.2g} GB a worker; disk: {1 + 4 * len(levels) * numbers / 1e6:.2g} MB
nothing was written"""
