"""Any folder of labelled images as starting images: ImageNet's layouts, N images of each class."""

import json
import re
import stat
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from reprlib import repr as shortened

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from hierphase.checks import naming, positive_integer, utf8

#: Formats that are opened, whatever the name says (ImageNet has a PNG called ``.JPEG``).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
#: Largest image_size; one such image takes 0.8 GB.
MAX_SIZE = 8192
#: Folders of these names alone are parts of a data set, not its classes.
PARTS = {"images", "test", "train", "training", "val", "valid", "validation"}
CLASS_MAP = "classes.json"
#: Hidden files, and what operating systems leave beside the user's, are not looked at.
IGNORED = (".", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "__MACOSX", "desktop.ini")
# ILSVRC2012_val_00000293_n01440764.JPEG and n01440764_10026.JPEG
SYNSET = re.compile(r"(?:.*_)?(n\d{8})(?:_\d+)?\.\w+")


@dataclass(frozen=True)
class ImageFolder:
    """N images of each class, found and checked, but not held in memory.

    Attributes:
        paths: the images, class by class in the order of ``class_names``, sorted by name within.
        labels: (n,) int64, index of each image's class in ``class_names``.
        class_names: names of the classes, in the order of their folders or synsets: numbers as
            numbers, all others by Unicode code points.
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
        then resized bicubically until it equals ``image_size``. As there, alpha and an orientation
        in the EXIF data (but not that of a TIFF) are ignored, and of a moving picture the first
        frame is taken. Intensities 0..255 are mapped linearly to [-1, 1]; before, grey levels of 16
        bits are divided by 257, and floats, which must be in [0, 1], multiplied by 255.

        Args:
            indices: n >= 1 integers from 0 to len - 1.

        Returns:
            (n, 3, image_size, image_size), float32.

        Raises:
            ValueError: no index, one out of range, or an image that can no longer be read.
        """
        squares = []
        for index in indices:
            path = self.paths[positive_integer("each index", index, 0, len(self) - 1)]
            with naming(f"cannot read the image {path}"):
                squares.append(centre_square(_decoded(path), self.image_size))
        pixels = torch.from_numpy(np.stack(squares))
        return pixels.permute(0, 3, 1, 2).to(torch.float32).contiguous() / 127.5 - 1


def image_folder(path: Path | str, n_per_class: int, image_size: int, labels=None) -> ImageFolder:
    """Choose and check ``n_per_class`` images of every class of a folder.

    Two layouts are read: one folder for each class (``n01440764/*.JPEG``; other names do as well),
    or all images side by side under ILSVRC2012's names with the synset, the class's WordNet
    number (``ILSVRC2012_val_00000293_n01440764.JPEG``, ``n01440764_10026.JPEG``). Names that start
    with one of :data:`IGNORED`, a dot above all, are ignored.

    Classes are later matched to a classifier's by their names: those of the folders, or the
    synsets. Where the classifier knows them by others, a file ``classes.json`` in the folder says
    which, for some classes or all: ``{"n01440764": "tench", "my-dogs": "golden retriever"}``; null
    says that it has no such class (its name is then empty, and its index -1).
    torchvision's classifiers know ImageNet's classes by torchvision's names, by synset, and by
    index 0 to 999; a classifier without names knows them by index
    (:func:`~hierphase.diffusion.labels.class_indices`).

    The choice depends on nothing but names and contents: the first images of the class in the
    order of their names (by Unicode code points). Each is decoded once to see that it is whole;
    one that is not is rejected and the next takes its place. Images after the last chosen are not
    opened, so that this takes seconds for a thousand images, however large the folder is. Files
    without the suffix of an image are rejected by their names alone, pipes and devices are not
    opened, and images whose range of values is not known are rejected. A warning counts and names
    the rejected.

    Args:
        path: the folder.
        n_per_class: images to choose of each class.
        image_size: height and width in pixels that :meth:`ImageFolder.load` gives them, at most
            :data:`MAX_SIZE`.
        labels: a CSV file with the columns ``file``, within the folder at any depth or with its
            whole path, and ``label``, whose classes replace those of folders and names. With ""
            images that lie side by side without a synset are allowed: they are of one class, whose
            name is empty.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no images, class folders beside images, parts of a data set in
            place of classes, an image of unknown class, a class with fewer than ``n_per_class``
            usable images, or a ``classes.json`` that does not map names to names, or
            labels of other files than those that are there.

    Example:
        >>> from pathlib import Path
        >>> import PIL.Image
        >>> from hierphase import image_folder
        >>> for name in ("cats", "dogs"):
        ...     Path("pets", name).mkdir(parents=True)
        ...     PIL.Image.new("RGB", (80, 60)).save(f"pets/{name}/first.png")
        >>> pets = image_folder("pets", n_per_class=1, image_size=32)
        >>> pets.class_names
        ('cats', 'dogs')
        >>> pets.load([0, 1]).shape  # in [-1, 1]
        torch.Size([2, 3, 32, 32])
    """
    path = Path(path)
    n_per_class = positive_integer("n_per_class", n_per_class)
    image_size = positive_integer("image_size", image_size, 1, MAX_SIZE)
    classes, rejected = _classes(path, labels)
    class_names = _class_names(path, classes)
    for name in class_names:
        utf8(f"class folder of {path}:", name)

    paths, of_class = [], torch.arange(len(classes)).repeat_interleave(n_per_class)
    for name, files in tqdm(classes.items(), desc=path.name, disable=None):
        chosen = _usable(files, n_per_class, rejected)
        if len(chosen) < n_per_class:
            few = f"{len(chosen)} usable images, n_per_class={n_per_class} needs more"
            raise ValueError(f"class {name} of {path} has {few}; rejected: {_listing(rejected)}")
        paths += chosen
    if rejected:
        few = f"{len(rejected)} files of {path} are no usable images: {_listing(rejected)}"
        warnings.warn(few, stacklevel=2)
    return ImageFolder(tuple(paths), of_class, class_names, rejected, image_size)


def class_sizes(path: Path | str, labels=None, most: int = 1000) -> dict[str, int]:
    """Usable images of each class of a folder, as :func:`image_folder`; the first ``most`` of all.

    A class counts one more than its share of these at most; no more files are opened.
    """
    classes, rejected = _classes(Path(path), labels)
    return {n: len(_usable(f, most // len(classes) + 1, rejected)) for n, f in classes.items()}


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """The central square of an image after guided-diffusion's resizing, (size, size) pixels."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    sides = np.array(image.size)
    resized = np.round(sides * (size / sides.min()))
    start = (resized - size) // 2 * sides / resized
    stop = start + size * sides / resized
    cropped = np.maximum(np.floor(start) - 5, 0)  # more than the bicubic kernel reaches
    image = image.crop((*cropped, *np.minimum(np.ceil(stop) + 5, sides)))
    (left, top), (right, bottom) = start - cropped, stop - cropped
    # Pillow's order of the two passes, which is a matter of bits, depends on its version
    bicubic, height = Image.Resampling.BICUBIC, image.height
    image = image.resize((size, height), bicubic, (left, 0, right, height))
    return image.resize((size, size), bicubic, (0, top, size, bottom))


def _class_names(path: Path, classes: Mapping) -> tuple[str, ...]:
    """Names of the classes, those of CLASS_MAP in place of the folders' own."""
    file = path / CLASS_MAP
    try:
        names = json.loads(file.read_bytes()) if file.is_file() else {}
        return tuple("" if (x := names.get(name, name)) is None else str(x) for name in classes)
    except (ValueError, AttributeError):
        like = f'{file} must be JSON like {{"folder": "class", "n01440764": "tench"}}'
        raise ValueError(like) from None


def _classes(path: Path, labels=None) -> tuple[dict[str, list[Path]], dict[Path, str]]:
    """Files of each class that are images by name, both sorted; and the others with the reason."""
    if not path.is_dir():
        raise FileNotFoundError(f"no folder of images at {path}")
    rejected = {}
    if labels:
        return _listed(path, labels), rejected

    def images(files):
        rejected.update({file: "no suffix of an image" for file in files if not _is_image(file)})
        return [file for file in files if _is_image(file)]

    entries = _visible(path)
    inside = {e.name: _visible(e) for e in entries if not _is_image(e) and e.is_dir()}
    beside = images([e for e in entries if e.name not in {*inside, CLASS_MAP}])
    classes = {name: images(files) for name, files in inside.items()}
    deep = [n for n, files in inside.items() if not classes[n] and any(e.is_dir() for e in files)]
    if parts := deep or [n for n in inside if {m.casefold() for m in inside} <= PARTS]:
        which = f"give one of these, like {path / parts[-1]}"
        raise ValueError(f"{path} holds {shortened(parts)}, no classes with their images: {which}")
    for image in beside:
        synset = SYNSET.fullmatch(image.name)
        if inside or not (synset or labels == ""):
            layouts = "each class into a folder, or synsets into names like n01440764_10026.JPEG"
            raise ValueError(f"{image} is of no class: put {layouts}")
        classes.setdefault(synset[1] if synset else "", []).append(image)
    if not any(classes.values()):
        wanted = ", ".join(SUFFIXES)
        raise ValueError(f"{path} holds no images ({wanted}); it holds: {_listing(rejected)}")
    key = int if all(name.isdecimal() for name in classes) else str
    return {name: classes[name] for name in sorted(classes, key=key)}, rejected


def _listed(path: Path, labels) -> dict[str, list[Path]]:
    """Files of each class, as a CSV says."""
    files = (f.relative_to(path) for f in path.rglob("*") if _is_image(f))
    there = {f.as_posix() for f in files if not any(p.startswith(IGNORED) for p in f.parts)}
    with naming(labels):
        table = pd.read_csv(labels, dtype=str, keep_default_na=False)
        twice = {"file.1", "label.1"} & {*table}  # pandas' names of a second column
        if not {"file", "label"} <= {*table} or twice or table.empty:
            raise ValueError(f"needs a line file,label and one for each image, got {[*table]}")
        there_at = path.absolute()
        table.file = [(there_at / f).relative_to(there_at).as_posix() for f in table.file]
        for what, names in {
            f"it lists files that are not in {path}": {*table.file} - there,
            f"it lists no label of images of {path}": there - {*table.file},
            "it lists files twice": {*table.file[table.file.duplicated()]},
            "it lists files without a label": {*table.file[table.label == ""]},
        }.items():
            if names:
                raise ValueError(f"{what}: {shortened(sorted(names))}; one line an image")
    return {name: [path / f for f in sorted(own)] for name, own in table.groupby("label").file}


def _usable(files: Sequence[Path], most: int, rejected: dict[Path, str]) -> list[Path]:
    """The first files that can be decoded; why others cannot is told to ``rejected``."""

    def usable(file):
        try:
            _decoded(file)
        except Exception as error:  # Pillow has no common class for what bad files cause
            rejected[file] = str(error)
        return file not in rejected

    return list(islice(filter(usable, files), most))


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(IGNORED))


def _is_image(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def _decoded(path: Path) -> Image.Image:
    """The whole image in RGB, its numbers divided by the range of their type.

    Pillow's ``verify`` would not notice one that is cut short.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("no regular file")
    with Image.open(path, formats=FORMATS) as image:
        highest = {"I;16": 65535, "I;16B": 65535, "F": 1}.get(image.mode)
        tags = getattr(image, "tag_v2", {})  # of a TIFF: number of bits, which end is black, signs
        odd = highest and (tags.get(258) == (12,) or tags.get(262) == 0)
        if odd or image.mode == "I" or 2 in tags.get(339, ()):
            raise ValueError(f"mode {image.mode} of unknown range or signed; save it with 8 bits")
        if not highest:
            return image.convert("RGB")
        values = np.asarray(image)
    if not 0 <= values.min() <= values.max() <= highest:
        raise ValueError(f"floats from {values.min():g} to {values.max():g}, not from 0 to 1")
    return Image.fromarray(np.rint(values * (255 / highest)).astype(np.uint8)).convert("RGB")


def _listing(rejected: Mapping[Path, str]) -> str:
    """The first rejected files with their reasons."""
    shown = [f"{f.parent.name}/{f.name} ({why})" for f, why in islice(rejected.items(), 10)]
    return ", ".join(shown + ["..."] * (len(rejected) > len(shown))) or "none"
