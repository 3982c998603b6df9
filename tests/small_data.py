"""Small stand-ins for published data sets, in all the formats that these are to be had in."""

import gzip
import hashlib
import io
import json
import tarfile

import numpy as np
from PIL import Image

from hierphase.diffusion import published

N_TRAIN, N_TEST = 7, 3
_random = np.random.default_rng(0)
PIXELS = _random.integers(0, 256, (N_TRAIN + N_TEST, 28, 28), dtype=np.uint8)
LABELS = np.arange(N_TRAIN + N_TEST, dtype=np.uint8)
#: Two images a batch, the last batch for the test.
PHOTOGRAPHS = _random.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
PHOTOGRAPH_LABELS = [*range(10), 3, 8]


def _idx(array):
    """The array with its header, as MNIST's files have it."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


_GREY = {
    "train-images-idx3-ubyte": _idx(PIXELS[:N_TRAIN]),
    "train-labels-idx1-ubyte": _idx(LABELS[:N_TRAIN]),
    "t10k-images-idx3-ubyte": _idx(PIXELS[N_TRAIN:]),
    "t10k-labels-idx1-ubyte": _idx(LABELS[N_TRAIN:]),
}
_BATCHES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
_COLOUR, SHEETS = {}, {}
for _k, _name in enumerate(_BATCHES):
    _records = ""
    for _i in (2 * _k, 2 * _k + 1):
        _records += chr(PHOTOGRAPH_LABELS[_i]) + PHOTOGRAPHS[_i].tobytes().decode("latin-1")
    _COLOUR[f"{_name}.bin"] = _records.encode("latin-1")
    _stream = io.BytesIO()
    _rows = PHOTOGRAPHS[2 * _k : 2 * _k + 2].reshape(2, 3, 1024).transpose(0, 2, 1)
    Image.fromarray(np.ascontiguousarray(_rows)).save(_stream, "PNG")
    SHEETS[f"{_name}.png"] = _stream.getvalue()
SHEETS["train_lables.json"] = json.dumps(PHOTOGRAPH_LABELS[:10]).encode()
SHEETS["test_lables.json"] = json.dumps(PHOTOGRAPH_LABELS[10:]).encode()

#: Data set -> name of a published file -> what it holds.
CONTENTS = {"fashion-mnist": _GREY, "mnist": _GREY, "cifar10": _COLOUR}


def pin(monkeypatch):
    """Make these the data that are expected."""
    hashes = {
        dataset: {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        for dataset, contents in CONTENTS.items()
    }
    monkeypatch.setattr(published, "FILES", hashes)


def put(folder, contents):
    """Write files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def packed(contents):
    """The same files, each compressed."""
    return {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}


def archive(contents, inside):
    """An archive of the files, in a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()
