"""Any folder of labelled images as starting images: ImageNet's layouts, N images of each class."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from hierphase.checks import positive_integer, utf8

#: Formats that are opened, whatever the name says (ImageNet has a PNG called ``.JPEG``).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# ILSVRC2012_val_00000293_n01440764.JPEG and n01440764_10026.JPEG
SYNSET = re.compile(r"(?:.*_)?(n\d{8})(?:_\d+)?\.\w+")


@dataclass(frozen=True)
class ImageFolder:
    """N images of each class, found and checked, but not held in memory.

    Attributes:
        paths: the images, class by class in the order of ``class_names``, sorted by name within.
        labels: (n,) int64, index of each image's class in ``class_names``.
        class_names: sorted names of the classes.
        rejected: what was passed over, with the reason.
        image_size: height and width in pixels of the images that :meth:`load` returns.
    """

    paths: tuple[Path, ...]
    labels: torch.Tensor
    class_names: tuple[str, ...]
    rejected: Mapping[Path, str]
    image_size: int

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, indices: Sequence[int]) -> torch.Tensor:
        """Images of these indices, in their order, read from disk.

        They become RGB, then are resized and cropped to the central square as guided-diffusion
        does it: halved with a box filter while the smaller side is at least twice ``image_size``,
        then resized bicubically until it equals ``image_size``. An orientation in the EXIF data is
        ignored, as it is there. Intensities 0..255 are mapped linearly to [-1, 1].

        Args:
            indices: n >= 1 integers from 0 to len - 1.

        Returns:
            (n, 3, image_size, image_size), float32.

        Raises:
            ValueError: no index, one out of range, or an image that can no longer be read.
        """
        indices = [int(index) for index in indices]
        if not indices or not all(0 <= index < len(self) for index in indices):
            raise ValueError(
                f"indices must be one or more from 0 to {len(self) - 1}, got {indices}"
            )
        squares = []
        for path in (self.paths[index] for index in indices):
            try:
                squares.append(centre_square(_decoded(path), self.image_size))
            except Exception as error:  # Pillow has no common class for what bad files cause
                raise ValueError(f"cannot read the image {path}: {_reason(error)}") from error
        pixels = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
        return pixels.permute(0, 3, 1, 2).to(torch.float32).contiguous() / 127.5 - 1


def image_folder(path: Path | str, n_per_class: int, image_size: int) -> ImageFolder:
    """Choose and check ``n_per_class`` images of every class of a folder.

    Two layouts are read: one folder for each class (``n01440764/*.JPEG``; other names do as well),
    or all images side by side under ILSVRC2012's names with the synset, the class's WordNet
    number (``ILSVRC2012_val_00000293_n01440764.JPEG``, ``n01440764_10026.JPEG``). With all 1000
    synsets the labels are those of torchvision's classifiers. Names that start with a dot are
    ignored.

    The choice depends on nothing but names and contents: the first images of the class in the
    order of their names (by Unicode code points). Each is decoded once to see that it is whole;
    one that is not is rejected and the next takes its place. Images after the last chosen are not
    opened, so that this takes seconds for a thousand images, however large the folder is. Files
    without the suffix of an image are rejected by their names alone. A warning counts and names
    the rejected.

    Args:
        path: the folder.
        n_per_class: images to choose of each class.
        image_size: height and width in pixels that :meth:`ImageFolder.load` gives them.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no images, class folders beside images, an image of unknown
            class, or a class with fewer than ``n_per_class`` usable images.
    """
    path = Path(path)
    n_per_class = positive_integer("n_per_class", n_per_class)
    image_size = positive_integer("image_size", image_size)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder of images at {path}")
    classes, rejected = _classes(path)
    for name in classes:
        utf8(f"class folder of {path}:", name)
    paths, labels = [], []
    for label, (name, files) in enumerate(tqdm(classes.items(), desc=path.name, disable=None)):
        n_chosen = 0
        for file in files:
            if n_chosen == n_per_class:
                break
            try:
                _decoded(file)
            except Exception as error:  # Pillow has no common class for what bad files cause
                rejected[file] = _reason(error)
                continue
            paths.append(file)
            labels.append(label)
            n_chosen += 1
        if n_chosen < n_per_class:
            raise ValueError(
                f"class {name} of {path} has {n_chosen} usable images, n_per_class={n_per_class} "
                f"needs more{_listing(rejected, '; rejected so far: ')}"
            )
    if rejected:
        title = f"{len(rejected)} files of {path} are no usable images: "
        warnings.warn(_listing(rejected, title), stacklevel=2)
    return ImageFolder(tuple(paths), torch.tensor(labels), tuple(classes), rejected, image_size)


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """The central square of an image after guided-diffusion's resizing, (size, size) pixels."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _classes(path: Path) -> tuple[dict[str, list[Path]], dict[Path, str]]:
    """Files of each class that are images by name, both sorted; and the others with the reason."""
    entries = _visible(path)
    inside = {entry.name: _visible(entry) for entry in entries if entry.is_dir()}
    beside = [entry for entry in entries if entry.name not in inside]
    rejected = {
        Path(file): "no suffix of an image"
        for file in chain(beside, *inside.values())
        if not _is_image(file)
    }
    classes = {name: [Path(f) for f in files if _is_image(f)] for name, files in inside.items()}
    images = [Path(file) for file in beside if _is_image(file)]
    if inside and images:
        raise ValueError(
            f"{path} holds both folders ({min(inside)}, ...) and images ({images[0].name}, ...): "
            "give one with a folder for each class, or one with images alone"
        )
    if unnamed := [image.name for image in images if not SYNSET.fullmatch(image.name)]:
        raise ValueError(
            f"{len(unnamed)} images of {path} have no synset in their names, which would be "
            f"like n01440764_10026.JPEG or ILSVRC2012_val_00000293_n01440764.JPEG: "
            f"{', '.join(unnamed[:5])}; or put each class into a folder"
        )
    for image in images:
        classes.setdefault(SYNSET.fullmatch(image.name)[1], []).append(image)
    if not any(classes.values()):
        raise ValueError(
            f"{path} holds no images ({', '.join(SUFFIXES)}){_listing(rejected, '; it holds: ')}"
        )
    return dict(sorted(classes.items())), rejected


def _visible(folder) -> list[os.DirEntry]:
    """What a folder holds, sorted by name."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: entry.name)


def _is_image(file: os.DirEntry) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def _decoded(path: Path) -> Image.Image:
    """The whole image in RGB; Pillow's ``verify`` would not notice one that is cut short."""
    with Image.open(path, formats=FORMATS) as image:
        return image.convert("RGB")


def _reason(error: Exception) -> str:
    """What is wrong with a file, without its name where Pillow repeats it."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image in a known format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _listing(rejected: Mapping[Path, str], title: str) -> str:
    """The first rejected files with their reasons, after a title; empty if there are none."""
    if not rejected:
        return ""
    shown = [
        f"{path.parent.name}/{path.name} ({reason})" for path, reason in list(rejected.items())[:10]
    ]
    return title + ", ".join(shown + ["..."] * (len(rejected) > len(shown)))
