"""One shard of a sweep: a range of units, measured and kept in one file that can be trusted.

:func:`run_shard` computes nothing that is there already, and what is there counts only if it is
whole and belongs to the same sweep: a checksum at the end of the file and a key in it tell.
"""

import contextlib
import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import xarray as xr

from hierphase import files
from hierphase.runs import results

#: Raise it where the package computes other numbers than before, or others besides, from the same
#: inputs: shards of two versions do not go together.
NUMERICS = 3

# A process has one model and one number of threads: it computes one shard at a time.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class ShardSpec:
    """Everything that a worker has to know to compute one shard.

    Attributes:
        experiment: its class, importable where the shard is computed; see
            :class:`hierphase.experiments.base.Experiment`.
        parameters: of the experiment, all of them.
        start: first unit.
        stop: one past the last unit.
        directory: absolute; receives the shard. All workers share it.
        key: of :func:`opened`, in the process that planned the sweep.
    """

    experiment: type
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


def run_shard(spec: ShardSpec) -> None:
    """Compute one shard, unless its file is there, whole and of the same key.

    On the CPU it computes with one thread, so that the bits depend neither on the executor nor on
    the number of cores. The file is written atomically.

    Args:
        spec: the shard.

    Raises:
        FileNotFoundError: the directory does not exist (on this machine).
        ValueError: this process would compute other numbers than the one that planned the sweep
            (other versions of packages or other model files).
    """
    with _ready(spec) as experiment:
        prepared = functools.partial(_stored, spec, spec.prepared_path, experiment.prepare)
        _stored(spec, spec.path, lambda: experiment.measure(spec.start, spec.stop, prepared()))


def run_preparation(spec: ShardSpec) -> None:
    """Compute what all shards need, unless it is there; as :func:`run_shard`."""
    with _ready(spec) as experiment:
        _stored(spec, spec.prepared_path, experiment.prepare)


@functools.lru_cache(maxsize=1)
def opened(experiment: type, parameters: str) -> tuple:
    """An experiment that was checked, and its key; the last one is kept, for all its shards.

    The key is the SHA-256 of what the numbers depend on, on this machine: the experiment with its
    parameters and the contents of its files, the versions of packages and :data:`NUMERICS`, and the
    instructions that torch uses of this processor.

    Args:
        experiment: its class.
        parameters: all of them, as JSON.

    Raises:
        ValueError, FileNotFoundError: as the experiment's ``check``.
    """
    computed = experiment(json.loads(parameters))
    computed.check()
    parts = {
        "experiment": experiment.__qualname__,
        "fingerprint": computed.fingerprint(),
        "packages": results.package_versions(),
        "numerics": NUMERICS,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
    return computed, hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_whole(path: Path, key: str) -> xr.Dataset | None:
    """The data of a file written by a sweep, or None where it cannot be trusted.

    Args:
        path: the file.
        key: of :func:`opened`, that it should have.

    Returns:
        The data set without its key; None if there is no such file, if it is damaged, or if it
        belongs to another sweep, or to another place in this one.
    """
    try:
        dataset = results.from_netcdf(files.read_sealed(path)).drop_encoding()
        return dataset if dataset.attrs.pop("key") == f"{path.name} of {key}" else None
    except (OSError, ValueError):
        return None


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
        missing = f"no directory {spec.directory} on {os.uname().nodename}"
        raise FileNotFoundError(f"{missing}: all workers of a sweep share its output directory")
    with _ONE_AT_A_TIME, one_thread():
        experiment, key = opened(spec.experiment, json.dumps(spec.parameters))
        if key != spec.key:
            differ = f"packages ({results.package_versions()}), files or processor differ"
            remedy = "for the same bits set ATEN_CPU_CAPABILITY=default for all"
            other = f"{os.uname().nodename} would compute other numbers"
            raise ValueError(f"{other}: {differ} ({remedy})")
        yield experiment


def _stored(spec: ShardSpec, path: Path, compute: Callable) -> xr.Dataset:
    """What a file of the sweep holds, computed first unless it is there, whole and of its key.

    A checksum follows the NetCDF file, where no reader looks.
    """
    if (stored := read_whole(path, spec.key)) is not None:
        return stored
    dataset = compute().drop_encoding()
    spec.experiment.check_finite(dataset, spec.parameters)
    said = {"key": f"{path.name} of {spec.key}", "device": results.device()}
    files.write(results.netcdf(dataset.assign_attrs(said)), path, sealed=True)
    return read_whole(path, spec.key)
