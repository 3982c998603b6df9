"""One shard of a sweep: a range of images, measured and kept in one file that can be trusted.

:func:`run_shard` computes nothing that is there already, and what is there counts only if it is
whole and belongs to the same sweep: a checksum and a key in the attributes of the file tell.
"""

import contextlib
import functools
import hashlib
import importlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import xarray as xr

from hierphase.runs import results

# A process has one model and one number of threads: it computes one shard at a time.
_ONE_AT_A_TIME = threading.Lock()


class Experiment(Protocol):
    """What a sweep needs of an experiment, which is made from its parameters (JSON types).

    It may also have ``image_dimensions``, the names of all dimensions along which what
    :meth:`measure` gives is joined (``("image",)`` without), and a method ``finish(merged)`` that
    gives the final data set, for what is computed once from everything.
    """

    def __len__(self) -> int:
        """Number of images."""

    def fingerprint(self) -> str:
        """Hash of the files (weights, ...) that the numbers depend on besides the parameters."""

    def prepare(self) -> xr.Dataset:
        """What all shards need, computed once."""

    def measure(self, start: int, stop: int, prepared: xr.Dataset) -> xr.Dataset:
        """The experiment on images start..stop - 1, which are the coordinate ``image``."""


@dataclass(frozen=True)
class ShardSpec:
    """Everything that a worker has to know to compute one shard.

    Attributes:
        experiment: "module:class", importable where the shard is computed.
        parameters: of the experiment, all of them.
        start: first image.
        stop: one past the last image.
        directory: absolute; receives the shard. All workers share it.
        key: :func:`sweep_key` of the process that planned the sweep.
    """

    experiment: str
    parameters: dict
    start: int
    stop: int
    directory: Path
    key: str

    @property
    def path(self) -> Path:
        """File of the shard."""
        return self.directory / f"{self.start:07d}-{self.stop:07d}.nc"

    @property
    def prepared_path(self) -> Path:
        """File of what all shards need."""
        return self.directory / "prepared.nc"


def run_shard(spec: ShardSpec) -> Path:
    """Compute one shard, unless its file is there, whole and of the same key.

    On the CPU it computes with one thread, so that the bits depend neither on the executor nor on
    the number of cores.

    Args:
        spec: the shard.

    Returns:
        The file with its data, written atomically.

    Raises:
        FileNotFoundError: the directory does not exist (on this machine).
        ValueError: this process would compute other numbers than the one that planned the sweep
            (other versions of packages or other model files).
    """
    with _ready(spec) as experiment:
        if read_whole(spec.path, spec.key, spec.start, spec.stop) is None:
            prepared = _prepare(spec, experiment)
            shard = experiment.measure(spec.start, spec.stop, prepared)
            if not _covers(shard, spec.start, spec.stop):
                raise ValueError(
                    f"{spec.experiment} was asked for images {spec.start} to {spec.stop - 1}, but "
                    f"its coordinate image is {shard.coords.get('image')!r}"
                )
            _write(shard, spec.path, spec)
    return spec.path


def run_preparation(spec: ShardSpec) -> Path:
    """Compute what all shards need, unless it is there; as :func:`run_shard`."""
    with _ready(spec) as experiment:
        _prepare(spec, experiment)
    return spec.prepared_path


def sweep_key(experiment: str, parameters: dict) -> str:
    """SHA-256 of what the numbers depend on: experiment, parameters, files, package versions.

    Args:
        experiment: "module:class".
        parameters: all parameters of the experiment.
    """
    parts = {
        "experiment": experiment,
        "parameters": parameters,
        "fingerprint": _fingerprint(experiment, json.dumps(parameters)),
        "packages": results.package_versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_whole(
    path: Path, key: str, start: int | None = None, stop: int | None = None
) -> xr.Dataset | None:
    """The data of a file written by a sweep, or None where it cannot be trusted.

    Args:
        path: the file.
        key: the :func:`sweep_key` it should have.
        start: first image that it should hold; None does not look at images.
        stop: one past the last.

    Returns:
        The data set without checksum and key; None if there is no such file, if it is damaged, or
        if it belongs to another sweep or range.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as stored:
            dataset = stored.load().drop_encoding()
        whole = dataset.attrs.pop("checksum") == _checksum(dataset)
    except Exception:  # no limit to what a damaged file makes the readers raise
        return None
    if not whole or dataset.attrs.pop("key") != key:
        return None
    return dataset if start is None or _covers(dataset, start, stop) else None


def load_experiment(experiment: str, parameters: dict) -> Experiment:
    """The experiment with these parameters; the last one is kept, for all shards of a process.

    Args:
        experiment: "module:class".
        parameters: of the class.
    """
    return _load(experiment, json.dumps(parameters))


@contextlib.contextmanager
def one_thread():
    """Let PyTorch compute with one CPU thread for as long as the ``with`` block lasts."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@contextlib.contextmanager
def _ready(spec: ShardSpec):
    """The experiment of ``spec``, in a process that may compute it, with one thread."""
    if not spec.directory.is_dir():
        raise FileNotFoundError(
            f"no directory {spec.directory} on {os.uname().nodename}: all workers of a sweep have "
            "to share its output directory"
        )
    with _ONE_AT_A_TIME, one_thread():
        if sweep_key(spec.experiment, spec.parameters) != spec.key:
            raise ValueError(
                f"{os.uname().nodename} would compute other numbers than the process that began "
                f"the sweep: the versions of packages ({results.package_versions()}) or the files "
                "that the parameters name differ"
            )
        yield load_experiment(spec.experiment, spec.parameters)


def _prepare(spec: ShardSpec, experiment: Experiment) -> xr.Dataset:
    """What all shards need, always as it was stored."""
    prepared = read_whole(spec.prepared_path, spec.key)
    if prepared is None:
        _write(experiment.prepare(), spec.prepared_path, spec)
        prepared = read_whole(spec.prepared_path, spec.key)
        if prepared is None:
            raise ValueError(f"{spec.prepared_path} does not read back as it was written")
    return prepared


def _write(dataset: xr.Dataset, path: Path, spec: ShardSpec) -> None:
    dataset = dataset.drop_encoding().assign_attrs(key=spec.key)
    results.write(dataset.assign_attrs(checksum=_checksum(dataset)), path)


def _covers(dataset: xr.Dataset, start: int, stop: int) -> bool:
    """Whether the coordinate ``image`` is start..stop - 1."""
    images = dataset.coords.get("image")
    return images is not None and np.array_equal(images.values, np.arange(start, stop))


def _checksum(dataset: xr.Dataset) -> str:
    """SHA-256 of names, dimensions, types, values and attributes."""
    digest = hashlib.sha256(_as_json(dataset.attrs))
    for name, variable in sorted(dataset.variables.items()):
        values = np.ascontiguousarray(variable.values)
        text = values.dtype.kind in "OUT"  # NetCDF knows one kind of text
        about = [name, variable.dims, values.shape, "text" if text else values.dtype.str]
        digest.update(_as_json([about, variable.attrs, values.tolist() if text else None]))
        if not text:
            digest.update(values.data)
    return digest.hexdigest()


def _as_json(value) -> bytes:
    """Canonical text; numbers that were stored come back as NumPy's."""
    return json.dumps(value, sort_keys=True, default=lambda stored: stored.tolist()).encode()


@functools.lru_cache(maxsize=1)
def _load(experiment: str, parameters: str) -> Experiment:
    module, name = experiment.split(":")
    return getattr(importlib.import_module(module), name)(json.loads(parameters))


@functools.lru_cache(maxsize=1)
def _fingerprint(experiment: str, parameters: str) -> str:
    return _load(experiment, parameters).fingerprint()
