"""Stored results: one NetCDF file per (chapter, preset), with its provenance in the attributes.

A chapter computes an :class:`xarray.Dataset`; :func:`save` writes it together with the parameters
it was computed from, and :func:`load` gives it back only to a caller that has the same parameters.
"""

import datetime
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
from pathlib import Path

import h5netcdf
import h5py
import xarray as xr
from xarray.backends import H5NetCDFStore

from hierphase import files
from hierphase.parameters import plain

PACKAGE = Path(__file__).resolve().parents[1]
RECORDED_PACKAGES = "hierphase numpy torch diffusers numba xarray pillow scikit-learn".split()
_OF_LINUX = Path("/proc/driver/nvidia/version"), Path("/proc/cpuinfo")


def book_directory() -> Path:
    """Directory of the chapters, their stored results and models.

    ``$HIERPHASE_BOOK`` if set, else what a wheel has installed in the package, else ``book/``
    beside it (a checkout or an editable install).

    Raises:
        FileNotFoundError: the directory does not exist, or has no chapters.
        ValueError: ``$HIERPHASE_BOOK`` is relative (a chapter runs in another directory).
    """
    installed = PACKAGE / "book"
    beside = installed if installed.is_dir() else PACKAGE.parent / "book"
    directory = Path(os.environ.get("HIERPHASE_BOOK") or beside)
    if not directory.is_absolute():
        raise ValueError(f"HIERPHASE_BOOK must be an absolute path, got {str(directory)!r}")
    if not any(directory.glob("*.md")):
        remedy = "install the wheel or a checkout (pip install -e .), or set HIERPHASE_BOOK"
        raise FileNotFoundError(f"no book directory with chapters at {directory}: {remedy}")
    return directory


def result_path(chapter: str, preset: str, directory: Path | str | None = None) -> Path:
    """Path of the result file of ``chapter`` and ``preset`` in ``directory``, or of the book's."""
    return Path(directory or book_directory() / "results") / f"{chapter}-{preset}.nc"


def save(dataset: xr.Dataset, chapter: str, preset: str, parameters: dict, directory) -> Path:
    """Write ``dataset`` with its provenance, atomically (a reader sees all of it or nothing).

    Args:
        dataset: the computed arrays, with named dimensions and coordinates.
        chapter: name of the chapter, as in ``hierphase list``.
        preset: which variant of the experiment, e.g. the data set.
        parameters: everything the numbers depend on; JSON types only.
        directory: where to write; created if missing.

    Returns:
        The path written, ``directory/<chapter>-<preset>.nc``.

    Raises:
        ValueError: ``parameters`` holds what JSON has no word for.
        WriteError: the file cannot be written; an older one is still there.
    """
    path = result_path(chapter, preset, directory)
    dataset = dataset.assign_attrs(
        chapter=chapter,
        preset=preset,
        parameters=as_json(parameters),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=git_commit(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        device=dataset.attrs.get("device") or device(),
        packages=json.dumps(package_versions()),
    )
    files.write(netcdf(dataset), path)
    return path


def package_versions() -> dict[str, str]:
    """Versions of the packages that numbers may depend on."""
    return {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES}


def device() -> str:
    """The GPU that PyTorch has, with its driver, or "cpu"; and the processor."""
    import torch  # here: what only reads results should not wait for it

    said = "".join(path.read_text() for path in _OF_LINUX if path.exists())
    names = re.findall(r"(?:NVRM version|model name\s*): (.*)", said)
    gpu = torch.cuda.is_available() and f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return "; ".join([gpu or "cpu", *dict.fromkeys(names)])


def as_json(parameters: dict) -> str:
    """The parameters as JSON, from which they come back as they are.

    Raises:
        ValueError: JSON has no word for one of them.
    """
    stored = {name: plain(f"parameter {name}", value) for name, value in parameters.items()}
    return json.dumps(stored, sort_keys=True)


def netcdf(dataset: xr.Dataset) -> bytes:
    """The bytes of the data set's NetCDF file.

    Not by ``to_netcdf``: in a worker of Dask that wants a lock by the name of a file, and a file of
    HDF5 on a disk that is full ends the process.
    """
    content = io.BytesIO()
    # Compression takes the room of an index: of small variables it is not worth it.
    large = (n for n, x in dataset.variables.items() if x.nbytes > 65536 and x.dtype.kind in "fiu")
    encoding = {name: {"zlib": True} for name in large}
    with h5netcdf.File(content, "w") as file:
        dataset.dump_to_store(H5NetCDFStore(file), encoding=encoding)
    return content.getvalue()


def from_netcdf(content: bytes) -> xr.Dataset:
    """The data set of a NetCDF file.

    Raises:
        ValueError: it says that it holds more than any file of its size can.
        OSError: it is damaged, or no NetCDF file. (Other errors may come of it as well.)
    """
    with h5py.File(io.BytesIO(content)) as file:  # h5netcdf's leaves a trace where it fails
        size = sum(getattr(variable, "nbytes", 0) for variable in file.values())
    if size > 1100 * len(content):  # deflate ends at 1032
        raise ValueError(f"it claims to hold {size} bytes, in a file of {len(content)}")
    return xr.load_dataset(io.BytesIO(content), engine="h5netcdf")


def read(path: Path, remedy: str = "") -> xr.Dataset:
    """A result, whatever its parameters.

    Raises:
        ValueError: there is none, or it is damaged; the message ends with ``remedy``.
    """
    try:
        dataset = from_netcdf(path.read_bytes())
        {**json.loads(dataset.attrs["parameters"])}
        return dataset
    except Exception as error:  # no limit to what a damaged file makes the readers raise
        raise ValueError(f"{path} is damaged or no stored result ({error!r}){remedy}") from None


def differences(stored: xr.Dataset, parameters: str, whose: str = "wanted") -> list[str]:
    """The parameters of a result that are not as in these, written as JSON, each in words."""
    theirs, ours = json.loads(stored.attrs["parameters"]), json.loads(parameters)
    both = [(n, theirs.get(n, "absent"), ours.get(n, "absent")) for n in sorted(theirs | ours)]
    return [f"{name}: stored {a!r}, {whose} {b!r}" for name, a, b in both if a != b]


def load(chapter: str, preset: str, parameters: dict, directory=None) -> xr.Dataset:
    """Read a stored result, refusing one that was computed with other parameters.

    Args:
        chapter: name of the chapter.
        preset: which variant of the experiment.
        parameters: the caller's parameters, as given to :func:`save`.
        directory: where to look; by default ``results/`` of the book.

    Raises:
        FileNotFoundError: there is no such result.
        ValueError: the file is damaged or no result, or the stored parameters differ; the message
            names each difference. All messages name the command that computes the result.

    Example:
        >>> import xarray as xr
        >>> from hierphase import load_result
        >>> from hierphase.runs import results
        >>> mine = xr.Dataset({"answer": 42})
        >>> results.save(mine, "bp-theory", "mine", {"L": 3}, "runs/mine").name
        'bp-theory-mine.nc'
        >>> int(load_result("bp-theory", "mine", {"L": 3}, "runs/mine").answer)
        42
    """
    path = result_path(chapter, preset, directory)
    sweep = f"hierphase sweep {chapter} --preset {preset}, which can use all cores"
    remedy = f"compute it with: hierphase run {chapter} -p recompute True (or {sweep})"
    if not path.is_file():
        raise FileNotFoundError(f"no stored result {path}; {remedy}")
    dataset = read(path, f": delete it and {remedy}")
    if different := differences(dataset, as_json(parameters)):
        reason = f"stored result {path.name} was computed with other parameters"
        raise ValueError(f"{reason} ({'; '.join(different)}); {remedy} and the parameters you want")
    return dataset


def git_commit() -> str:
    """Commit of the checkout that holds the package, '+' when modified, 'unknown' outside git.

    A repository further up, or one that the environment names, is another's.
    """
    checkout = ["--git-dir", PACKAGE.parent / ".git", "--work-tree", PACKAGE.parent]
    command = ["/usr/bin/env", "git", *checkout, "describe", "--always", "--dirty=+"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"
