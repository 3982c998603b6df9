"""Stored results: one NetCDF file per (chapter, preset), with its provenance in the attributes.

A chapter computes an :class:`xarray.Dataset`; :func:`save` writes it together with the parameters
it was computed from, and :func:`load` gives it back only to a caller that has the same parameters.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import uuid
from pathlib import Path

import xarray as xr

PACKAGE = Path(__file__).resolve().parents[1]
RECORDED_PACKAGES = (
    "hierphase", "numpy", "torch", "diffusers", "numba", "xarray", "pillow", "scikit-learn",
)  # fmt: skip


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
        raise FileNotFoundError(
            f"no book directory with chapters at {directory}: install the wheel, work in a "
            "checkout of the repository (pip install -e .), or set HIERPHASE_BOOK to its book/"
        )
    return directory


def result_path(chapter: str, preset: str, directory: Path | str) -> Path:
    """Path of the result file of ``chapter`` and ``preset`` in ``directory``."""
    return Path(directory) / f"{chapter}-{preset}.nc"


def save(
    dataset: xr.Dataset, chapter: str, preset: str, parameters: dict, directory: Path | str
) -> Path:
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
        TypeError: ``parameters`` holds something JSON cannot express.
    """
    path = result_path(chapter, preset, directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = dataset.assign_attrs(
        chapter=chapter,
        preset=preset,
        parameters=json.dumps(parameters, sort_keys=True),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=_git_commit(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        packages=json.dumps(package_versions()),
    )
    write(netcdf(dataset), path)
    return path


def package_versions() -> dict[str, str]:
    """Versions of the packages that numbers may depend on."""
    return {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES}


def netcdf(dataset: xr.Dataset) -> bytes:
    """The bytes of the data set's NetCDF file.

    By way of a file: in a worker of Dask xarray wants a lock for what it writes, by a name.
    """
    with tempfile.NamedTemporaryFile(suffix=".nc") as file:
        dataset.to_netcdf(file.name, engine="h5netcdf")
        return file.read()


def write(content: bytes, path: Path) -> None:
    """Write a file, atomically, also when several machines write it at once."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(
    chapter: str, preset: str, parameters: dict, directory: Path | str | None = None
) -> xr.Dataset:
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
    """
    directory = book_directory() / "results" if directory is None else Path(directory)
    path = result_path(chapter, preset, directory)
    remedy = (
        f"compute it with: hierphase run {chapter} -p recompute True (or hierphase sweep {chapter} "
        f"--preset {preset}, which can use all cores)"
    )
    if not path.is_file():
        raise FileNotFoundError(f"no stored result {path}; {remedy}")
    try:
        dataset = xr.load_dataset(path, engine="h5netcdf")
        theirs = dict(json.loads(dataset.attrs["parameters"]))
    except Exception as error:  # no limit to what a damaged file makes the readers raise
        raise ValueError(
            f"{path} is damaged or no stored result ({type(error).__name__}: {error}): delete it "
            f"and {remedy}"
        ) from None
    ours = json.loads(json.dumps(parameters))
    different = [
        f"{name}: stored {theirs.get(name, 'absent')!r}, wanted {ours.get(name, 'absent')!r}"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name, "absent") != ours.get(name, "absent")
    ]
    if different:
        raise ValueError(
            f"stored result {path.name} was computed with other parameters "
            f"({'; '.join(different)}); {remedy} and the parameters you want"
        )
    return dataset


def _git_commit() -> str:
    """Commit of the checkout that holds the package, '+' when modified, 'unknown' outside git.

    A repository further up, or one that the environment names, is another's.
    """
    checkout = ["--git-dir", PACKAGE.parent / ".git", "--work-tree", PACKAGE.parent]
    command = ["/usr/bin/env", "git", *checkout, "describe", "--always", "--dirty=+"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"
