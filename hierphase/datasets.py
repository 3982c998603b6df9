"""Real images, ready for a diffusion model: float32, channels first, values in [-1, 1]."""

import gzip
import hashlib
import http.client
import os
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

N_HELD_OUT_DIGITS = 450
DIGITS_SPLIT_SEED = 0

#: Where Debian's package ``dataset-fashion-mnist`` puts its files.
FASHION_MNIST_SYSTEM = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FASHION_MNIST_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
#: The classes that have close relatives -> their group; the others stand alone.
FASHION_MNIST_SUPERCLASSES = {
    **dict.fromkeys(("T-shirt", "pullover", "coat", "shirt"), "tops"),
    **dict.fromkeys(("sandal", "sneaker", "ankle boot"), "footwear"),
}
# SHA-256 of what the files hold (unpacked: packages compress them differently).
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte.gz": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
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
        ValueError: images outside [-1, 1] or not float32, labels that are no class index, or a
            number of labels other than the number of images.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]

    def __post_init__(self):
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if images.dtype != torch.float32 or images.ndim != 4:
                raise ValueError(
                    f"{part}_images must be float32 of shape (n, channels, height, width), got "
                    f"{images.dtype} of shape {tuple(images.shape)}"
                )
            if not (images.amin() >= -1 and images.amax() <= 1):
                raise ValueError(
                    f"{part}_images must lie in [-1, 1], got values from {images.amin():g} to "
                    f"{images.amax():g}"
                )
            if labels.shape != images.shape[:1]:
                raise ValueError(
                    f"{part}_labels must hold one label per image, got shape "
                    f"{tuple(labels.shape)} for {len(images)} images"
                )
            if labels.amin() < 0 or labels.amax() >= len(self.class_names):
                raise ValueError(
                    f"{part}_labels must lie in [0, {len(self.class_names)}), got values from "
                    f"{labels.amin()} to {labels.amax()}"
                )

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
    """
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    labels = torch.from_numpy(labels).to(torch.int64)
    train, test = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=N_HELD_OUT_DIGITS,
        stratify=labels.numpy(),
        random_state=DIGITS_SPLIT_SEED,
    )
    return ImageData(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
    )


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
    images, labels = {}, {}
    for part in ("train", "t10k"):
        pixels = _fashion_mnist_file(f"{part}-images-idx3-ubyte.gz")[16:].reshape(-1, 1, 28, 28)
        images[part] = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1
        labels[part] = torch.from_numpy(
            _fashion_mnist_file(f"{part}-labels-idx1-ubyte.gz")[8:].astype(np.int64)
        )
    return ImageData(
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["t10k"],
        test_labels=labels["t10k"],
        class_names=FASHION_MNIST_CLASSES,
    )


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/hierphase``, by default ``~/.cache/hierphase``; need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hierphase"


def _fashion_mnist_file(name: str) -> np.ndarray:
    """Bytes of one of the four files, unpacked and verified."""
    cached = cache_directory() / "fashion-mnist" / name
    places = [FASHION_MNIST_SYSTEM / name, cached]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        url = f"{FASHION_MNIST_URL}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                packed = response.read()
        except (OSError, http.client.HTTPException) as error:
            looked = " nor ".join(map(str, places))
            raise FileNotFoundError(
                f"Fashion-MNIST: no {name}: neither {looked} exists, and {url} cannot be "
                f"downloaded ({error}). Install Debian's package dataset-fashion-mnist, or put the "
                f"file into {cached.parent}"
            ) from None
        content = _unpacked(packed, name, url)
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as temporary:
            temporary.write(packed)
        os.replace(temporary.name, cached)
        return content
    return _unpacked(found.read_bytes(), name, found)


def _unpacked(packed: bytes, name: str, origin) -> np.ndarray:
    """The bytes of a gzip file, once their hash is the pinned one."""
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{origin} is not a whole gzip file ({error}); remove it") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != FASHION_MNIST_FILES[name]:
        raise ValueError(
            f"{origin} holds other data than Fashion-MNIST's {name}: SHA-256 {digest}, expected "
            f"{FASHION_MNIST_FILES[name]}; remove it"
        )
    return np.frombuffer(content, dtype=np.uint8)
