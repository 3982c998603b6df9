"""What a folder may look like: a line for each layout."""

import re
import warnings

import pytest
from PIL import Image

from hierphase.diffusion.image_folder import image_folder

MESSAGE = r"holds {}, no classes with their images: give one of these, like {}"


def layout(folder, files):
    """A folder with these files: images by their suffix, empty folders by a last ``/``."""
    for name in files:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            Image.new("RGB", (8, 8)).save(path, "PNG")
        elif not name.endswith("/"):
            path.write_bytes(b"\0")
    return folder


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["b/1.png", "a/1.png"], ("a", "b")),
        (["train/1.png", "bus/1.png"], ("bus", "train")),  # the train of COCO and CIFAR-100
        (["images/1.png", "a/1.png"], ("a", "images")),
        (["a/1.png", "a/more/2.png"], ("a",)),
        (["a/1.png", ".git/x", ".DS_Store", "a/.hidden.png", "a/._1.png"], ("a",)),
        (["a/1.png", "Thumbs.db", "desktop.ini", "a/Thumbs.db", "a/desktop.ini"], ("a",)),
        (["a/1.png", "$RECYCLE.BIN/S-1/x", "System Volume Information/x"], ("a",)),
        (["a/1.png", "__MACOSX/a/._1.png"], ("a",)),
        (["2/1.PNG", "10/1.JPG", "1/1.Jpeg"], ("1", "2", "10")),
        (["n01440764_2.JPEG", "x_n01443537.JPEG"], ("n01440764", "n01443537")),
    ],
)
def test_what_is_read(tmp_path, files, classes):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* a/more .no suffix")
        warnings.simplefilter("error", DeprecationWarning)
        folder = image_folder(layout(tmp_path, files), 1, 8)
    assert folder.class_names == classes and len(folder) == len(classes)
    assert {path.name for path in folder.rejected} <= {"more"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/1.png", "val/a/1.png", "test/a/1.png"], (r"\['test', 'train', 'val'\]", "val")),
        (["train/a/1.png", "Val/a/1.png", "notes.txt"], (r"\['Val', 'train'\]", "train")),
        (["train/n01440764_1.JPEG", "val/n01440764_2.JPEG"], (r"\['train', 'val'\]", "val")),
        (["images/val_0.JPEG", "val_annotations.txt"], (r"\['images'\]", "images")),
        (["Data/CLS-LOC/val/1.JPEG"], (r"\['Data'\]", "Data")),
        (["a/1.png", "b/images/1.png"], (r"\['b'\]", "b")),
        (["a/images/1.png", "b/images/1.png"], (r"\['a', 'b'\]", "b")),
        (["a/1.png", "b/"], "class b of .* has 0 usable images"),
        (["a/1.png", "b/.hidden.png"], "class b of .* has 0 usable images"),
        (["a/1.png", "b/notes.txt"], r"class b of .* has 0 usable .* b/notes.txt \(no suffix of"),
        (["a/1.png", "b/1.png:Zone.Identifier"], "class b of .* 0 .*Zone.Identifier .no suffix"),
        (["val_0.JPEG", "val_1.JPEG"], "val_0.JPEG is of no class: put each class into a fol"),
        (["a/1.png", "1.png"], "1.png is of no class: .* or synsets into names"),
    ],
)
def test_what_is_refused_in_one_line_that_says_what_to_give(tmp_path, files, message):
    if isinstance(message, tuple):
        message = MESSAGE.format(message[0], re.escape(f"{tmp_path / message[1]}"))
    with pytest.raises(ValueError, match=message) as caught:
        image_folder(layout(tmp_path, files), 1, 8)
    assert "\n" not in str(caught.value)
