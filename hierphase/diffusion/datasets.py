"""Real images, ready for a diffusion model: float32, channels first, values in [-1, 1]."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from hierphase.checks import check_shape
from hierphase.diffusion import published

DIGITS_SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"
DIGIT_CLASSES = tuple(map(str, range(10)))

_CLOTHES = "T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot"
FASHION_MNIST_CLASSES = tuple(_CLOTHES.split(", "))
#: The classes that have close relatives -> their group; the others stand alone.
FASHION_MNIST_SUPERCLASSES = dict.fromkeys(("T-shirt", "pullover", "coat", "shirt"), "tops")
FASHION_MNIST_SUPERCLASSES |= dict.fromkeys(("sandal", "sneaker", "ankle boot"), "footwear")
CIFAR10_CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


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
            _check(f"{part}_images", images, "n channels height width", torch.float32, -1, 1)
            _check(f"{part}_labels", labels, len(images), torch.int64, 0, len(self.class_names) - 1)

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
    published.verified(content, DIGITS_SHA256, "digits", "scikit-learn")
    images = pixels.reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1
    parts = train_test_split(images, labels, test_size=450, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, parts)
    return ImageData(train_images, train_labels, test_images, test_labels, DIGIT_CLASSES)


def fashion_mnist() -> ImageData:
    """Fashion-MNIST: 70,000 grey-scale images of clothes in ten classes (Xiao et al. 2017, MIT).

    60,000 images are for training and 10,000 held out, as published; intensities 0..255 are mapped
    linearly to [-1, 1]. The four files are read from the directory of Debian's package
    ``dataset-fashion-mnist`` or the cache (:func:`hierphase.diffusion.published.fetch`), and must
    have the pinned SHA-256.

    Returns:
        Images of shape (n, 1, 28, 28).

    Raises:
        FileNotFoundError: a file is missing; says how to get it.
        ValueError: a file does not hold what it should; names it.
    """
    return _idx_data("fashion-mnist", FASHION_MNIST_CLASSES)


def mnist() -> ImageData:
    """MNIST: 70,000 grey-scale images of handwritten digits (LeCun et al. 1998).

    60,000 images are for training and 10,000 held out, as published; intensities 0..255 are mapped
    linearly to [-1, 1]. The four files are read from the cache
    (:func:`hierphase.diffusion.published.fetch`) and must have the pinned SHA-256.

    Returns:
        Images of shape (n, 1, 28, 28).

    Raises:
        FileNotFoundError: a file is missing; says how to get it.
        ValueError: a file does not hold what it should; names it.
    """
    return _idx_data("mnist", DIGIT_CLASSES)


def cifar10(size: int = 32) -> ImageData:
    """CIFAR-10: 60,000 colour photographs in ten classes (Krizhevsky 2009).

    50,000 images are for training and 10,000 held out, as published; intensities 0..255 are mapped
    linearly to [-1, 1]. The files, of the binary version, are read from the cache
    (:func:`hierphase.diffusion.published.fetch`) and must have the pinned SHA-256.

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

    batches = published.read("cifar10").values()  # label, then red, green, blue
    records = torch.from_numpy(np.concatenate(list(batches))).view(-1, 3073)
    labels = records[:, 0].long()
    images = records[:, 1:].reshape(-1, 3, 32, 32).float()
    images = functional.avg_pool2d(images, 32 // size).div_(127.5).sub_(1)
    n = len(records) * 5 // 6  # the last batch is held out
    return ImageData(images[:n], labels[:n], images[n:], labels[n:], CIFAR10_CLASSES)


#: The data sets that come whole, by name, as calls without arguments.
DATASETS = {"digits": digits, "fashion-mnist": fashion_mnist, "mnist": mnist}
DATASETS |= {f"cifar10-{size}": partial(cifar10, size) for size in (8, 16, 32)}


def _idx_data(dataset: str, class_names: tuple[str, ...]) -> ImageData:
    """The four files of MNIST's format, without their headers."""
    files, parts = published.read(dataset), []
    for part in ("train", "t10k"):
        pixels = files[f"{part}-images-idx3-ubyte"][16:].reshape(-1, 1, 28, 28)
        labels = files[f"{part}-labels-idx1-ubyte"][8:]
        images = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1
        parts += [images, torch.from_numpy(labels.astype(np.int64))]
    return ImageData(*parts, class_names)


def _check(name: str, values: torch.Tensor, axes, dtype: torch.dtype, least: int, most: int):
    """Raise a ValueError unless the values are of this shape and type and within these limits."""
    check_shape(name, values, axes)
    low, high = values.aminmax()
    if values.dtype != dtype or not least <= low <= high <= most:
        found = f"{values.dtype} from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {dtype} from {least} to {most}, got {found}")
