"""Which class of a network a class of images is: told by names, never by places in lists."""

from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as shortened

import torch

from hierphase.checks import check_known

# The 1000 synsets of ILSVRC2012; their order, that of the text, is that of the indices.
IMAGENET_SYNSETS = Path(__file__).with_name("imagenet_synsets.txt").read_text().split()
#: What a class-conditional denoiser is told of the class of x_0.
LABELS = ("dropped", "kept", "swapped")
#: Modules of diffusers that hold a vector for each class.
CLASS_TABLES = ("class_embedding", "class_embedder.embedding_table")


def class_indices(names: Sequence[str], namings: Sequence[Sequence[str]]) -> list[int]:
    """Index of each class of some images among the classes of a classifier.

    Upper and lower case are the same here, as are ``_`` and a space, and numbers of equal value.

    Args:
        names: of the classes of the images; empty where the classifier has no such class.
        namings: one or more lists of the names of the classifier's classes, in its order. All
            ``names`` must be in the same list.

    Returns:
        One index for each of ``names``, all different but for -1, where the name is empty.

    Raises:
        ValueError: a name that is in no list, or twice in it or in ``names``; the message shows
            both sides.
    """
    wanted, strange = list(map(_folded, names)), []
    for naming in namings:
        known = list(map(_folded, naming))
        pairs = zip(names, wanted, strict=True)
        strange.append([n for n, w in pairs if n and (known.count(w), wanted.count(w)) != (1, 1)])
        if not strange[-1]:
            return [known.index(name) if name else -1 for name in wanted]
    known = " or ".join(map(shortened, namings))
    wrong = f"{shortened(min(strange, key=len))} are not each one class of the classifier"
    sides = f"the images have {len(names)}, {shortened(list(names))}, it has {len(namings[0])}"
    remedy = 'say in a file classes.json beside the images which they are: {"folder": "class"}'
    raise ValueError(f"{wrong}: {sides}, {known}; {remedy}, or null where it has none")


def n_classes(denoiser: torch.nn.Module) -> int:
    """How many classes a denoiser of diffusers can be told; 0 if it takes none."""
    tables = (x for name, x in denoiser.named_modules() if name.endswith(CLASS_TABLES))
    return next((x.num_embeddings for x in tables if isinstance(x, torch.nn.Embedding)), 0)


def told_classes(names: Sequence[str], denoiser: torch.nn.Module, label: str) -> dict:
    """What a class-conditional denoiser is told of each class of some images.

    Its classes are those that ``class_names`` in its config lists, else the 1000 of ImageNet; where
    it has one more, that one stands for no class.

    Args:
        names: of the classes of the images.
        denoiser: a model of diffusers.
        label: "kept"; "swapped", for that of another class of the images, half of all further on;
            or "dropped", for no class.

    Returns:
        ``class_labels`` -> (n_classes,) indices; empty where the denoiser takes no class.

    Raises:
        ValueError: an unknown label, one that the denoiser has not, or as :func:`class_indices`.
    """
    n = n_classes(denoiser)
    check_known(f"label for a model with {n} classes", label, LABELS if n else LABELS[:1])
    if not n:
        return {}
    known = denoiser.config.get("class_names") or IMAGENET_SYNSETS
    has = f"the model has classes 0 to {n - 1}"
    if not 0 <= n - len(known) <= 1:
        raise ValueError(f"{has}, which are not {shortened(known)}: list class_names in its config")
    if n == len(known) and (label == "dropped" or not all(names)):
        raise ValueError(f"{has} and none for no class: take label 'kept' or 'swapped'")
    if label == "swapped" and len(names) < 2:
        raise ValueError(f"label 'swapped' needs images of two classes, got {shortened(names)}")
    indices = class_indices(names if label != "dropped" else [""] * len(names), [known])
    shift = len(names) // 2 if label == "swapped" else 0
    return {"class_labels": torch.tensor(indices).roll(-shift) % n}  # of -1 that is the last one


def _folded(name: str) -> str:
    return str(int(name)) if name.isdecimal() else name.casefold().replace("_", " ")
