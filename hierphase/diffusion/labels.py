"""Which class of a classifier a class of images is: told by names, never by places in lists."""

from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as shortened

# The 1000 synsets of ILSVRC2012; their order, that of the text, is that of the indices.
IMAGENET_SYNSETS = Path(__file__).with_name("imagenet_synsets.txt").read_text().split()


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


def _folded(name: str) -> str:
    return str(int(name)) if name.isdecimal() else name.casefold().replace("_", " ")
