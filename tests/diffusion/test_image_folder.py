import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hierphase.diffusion import image_folder as module
from hierphase.diffusion.image_folder import image_folder

SIZE = 8


def pixels(seed, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path, **options)
    return path


def cut_short(path):
    """A JPEG whose header is whole and whose last bytes are missing."""
    save(path)
    path.write_bytes(path.read_bytes()[:-40])
    return path


@pytest.fixture
def classes(tmp_path):
    """Class folders with four images each."""
    for label, name in enumerate(["n01440764", "n01443537", "n01484850"]):
        for index in range(4):
            save(tmp_path / name / f"{name}_{index}.JPEG", seed=10 * label + index)
    return tmp_path


def names(folder):
    return [path.name for path in folder.paths]


# --- what is chosen


def test_class_folders_give_the_first_of_each_class(classes):
    (classes / ".ipynb_checkpoints").mkdir()
    (classes / "n01443537/._n01443537_0.JPEG").write_bytes(b"\0\5\26\7")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = image_folder(classes, n_per_class=2, image_size=SIZE)
    assert names(folder) == [
        "n01440764_0.JPEG", "n01440764_1.JPEG", "n01443537_0.JPEG", "n01443537_1.JPEG",
        "n01484850_0.JPEG", "n01484850_1.JPEG",
    ]  # fmt: skip
    assert folder.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert folder.labels.dtype == torch.int64
    assert folder.class_names == ("n01440764", "n01443537", "n01484850")
    assert len(folder) == 6
    assert folder.rejected == {}


def test_a_class_whose_name_is_no_text_is_refused(classes):
    save(classes / os.fsdecode(b"caf\xe9") / "a.png")
    with pytest.raises(ValueError, match=r"class folder of .*: 'caf\\udce9' is not UTF-8"):
        image_folder(classes, n_per_class=1, image_size=SIZE)


def test_flat_names_carry_the_synset(tmp_path):
    save(tmp_path / "ILSVRC2012_val_00000009_n01443537.JPEG")
    save(tmp_path / "ILSVRC2012_val_00000293_n01440764.JPEG")
    save(tmp_path / "n01440764_10026.JPEG")
    save(tmp_path / "n01443537_2.jpg")
    folder = image_folder(str(tmp_path), n_per_class=2, image_size=SIZE)
    assert folder.class_names == ("n01440764", "n01443537")
    assert names(folder) == [
        "ILSVRC2012_val_00000293_n01440764.JPEG", "n01440764_10026.JPEG",
        "ILSVRC2012_val_00000009_n01443537.JPEG", "n01443537_2.jpg",
    ]  # fmt: skip
    assert folder.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("flat", [False, True])
def test_choice_is_the_same_whatever_order_files_come_in(classes, tmp_path, flat, monkeypatch):
    if flat:
        for path in sorted(classes.glob("*/*")):
            path.rename(tmp_path / path.name)
        for path in sorted(classes.glob("n????????")):
            path.rmdir()
    before = image_folder(tmp_path, n_per_class=2, image_size=SIZE)
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(iterdir(path), reverse=True))
    after = image_folder(tmp_path, n_per_class=2, image_size=SIZE)
    assert after.paths == before.paths
    assert torch.equal(after.labels, before.labels)


def test_only_the_chosen_are_opened(classes, monkeypatch):
    opened, real = [], Image.open

    def recording(path, **options):
        opened.append(path)
        return real(path, **options)

    monkeypatch.setattr(module.Image, "open", recording)
    cut_short(classes / "n01484850/n01484850_2.JPEG")
    folder = image_folder(classes, n_per_class=2, image_size=SIZE)
    assert opened == list(folder.paths)
    assert folder.rejected == {}


# --- what is passed over


def test_bad_files_are_reported_and_the_next_takes_their_place(classes):
    bad = classes / "n01440764"
    cut_short(bad / "n01440764_0.JPEG")
    (bad / "n01440764_1.JPEG").write_bytes(b"not an image")
    (bad / "readme.txt").write_text("no image either")
    (bad / "n01440764_2.JPEG").unlink()
    (bad / "n01440764_2.JPEG").mkdir()
    save(bad / "n01440764_4.JPEG")
    with pytest.warns(UserWarning, match=r"4 files of .* n01440764/readme.txt \(no suffix") as seen:
        folder = image_folder(classes, n_per_class=2, image_size=SIZE)
    assert str(seen[0].message).count(" n01440764/n01440764_") == 3
    assert names(folder)[:3] == ["n01440764_3.JPEG", "n01440764_4.JPEG", "n01443537_0.JPEG"]
    assert {path.name for path in folder.rejected} == {
        "n01440764_0.JPEG", "n01440764_1.JPEG", "n01440764_2.JPEG", "readme.txt",
    }  # fmt: skip
    assert "truncated" in folder.rejected[bad / "n01440764_0.JPEG"]
    assert "cannot identify" in folder.rejected[bad / "n01440764_1.JPEG"]


def test_too_large_an_image_is_passed_over(classes, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 16)
    Image.fromarray(pixels(0, 24, 33)).save(classes / "n01440764/n01440764_0.JPEG")
    with pytest.warns(UserWarning, match=r"n01440764_0.JPEG \(.*decompression bomb"):
        folder = image_folder(classes, n_per_class=2, image_size=SIZE)
    assert names(folder)[0] == "n01440764_1.JPEG"


def test_long_lists_are_cut(classes):
    for index in range(30):
        (classes / f"n01440764/{index:02}.txt").touch()
    with pytest.warns(UserWarning, match=r"30 files .*09.txt \(no suffix of an image\), \.\.\.$"):
        assert len(image_folder(classes, n_per_class=1, image_size=SIZE).rejected) == 30


# --- pixels


def resampled(array, n, kernel):
    """Axis 0 of an array at n points: a kernel stretched over the input, weights summing to one."""
    ratio = len(array) / n
    stretch = max(ratio, 1.0)
    centres = (np.arange(n) + 0.5) * ratio
    distance = (np.arange(len(array)) + 0.5 - centres[:, None]) / stretch
    weights = kernel(distance)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.floor(np.tensordot(weights, array, axes=1).clip(0, 255) + 0.5)  # Pillow keeps bytes


def box(x):
    return ((-0.5 < x) & (x <= 0.5)).astype(float)


def cubic(x):
    """Keys's kernel with a = -1/2."""
    x = np.abs(x)
    outer = np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0.0)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, outer)


def resized(array, height, width, kernel):
    across = resampled(array.swapaxes(0, 1), width, kernel).swapaxes(0, 1)
    return resampled(across, height, kernel)


def reference_square(array, size):
    """guided-diffusion's resizing and crop from its description, without Pillow."""
    while min(array.shape[:2]) >= 2 * size:
        height, width = array.shape[0] // 2, array.shape[1] // 2
        array = resized(array, height, width, box)
    scale = size / min(array.shape[:2])
    array = resized(array, round(array.shape[0] * scale), round(array.shape[1] * scale), cubic)
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[top : top + size, left : left + size]


# no 4n + 1 is halved: the edge of the box would fall on a pixel's centre, a matter of rounding
@pytest.mark.parametrize(
    ("height", "width"),
    [(16, 16), (16, 19), (20, 31), (32, 48), (50, 43), (70, 130), (150, 64), (9, 12), (200, 31)],
)
def test_square_is_guided_diffusions(tmp_path, height, width):
    array = pixels(0, height, width)
    (tmp_path / "only").mkdir()
    Image.fromarray(array).save(tmp_path / "only/a.png")
    image = image_folder(tmp_path, n_per_class=1, image_size=16).load(range(0, 1))[0]
    assert image.shape == (3, 16, 16)
    found = (image.permute(1, 2, 0).numpy() + 1) * 127.5
    # noise spans 256 grey levels: a wrong filter or a shift by a pixel is off by tens
    assert np.abs(found - reference_square(array.astype(float), 16)).max() <= 1.01


def test_load_is_lazy_and_in_the_order_of_the_paths(classes):
    folder = image_folder(classes, n_per_class=3, image_size=12)
    everything = folder.load(range(0, 9))
    assert everything.shape == (9, 3, 12, 12)
    assert everything.dtype == torch.float32
    assert everything.is_contiguous()
    assert -1 <= everything.amin() < -0.5 and 0.5 < everything.amax() <= 1
    assert torch.equal(folder.load(range(4, 6)), everything[4:6])
    with Image.open(folder.paths[5]) as image:
        centre = np.asarray(image)[:, 2:14]  # 12 x 16 pixels: nothing to resize
    np.testing.assert_allclose(everything[5].permute(1, 2, 0), centre / 127.5 - 1, atol=1e-6)
    folder.paths[3].write_bytes(b"")
    assert torch.equal(folder.load(range(0, 3)), everything[:3])
    with pytest.raises(ValueError, match=f"cannot read the image {folder.paths[3]}"):
        folder.load(range(3, 5))


# --- errors


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder of images at .*/nowhere"):
        image_folder(tmp_path / "nowhere", n_per_class=1, image_size=SIZE)
    with pytest.raises(FileNotFoundError, match=r"no folder of images at .*/a.png"):
        image_folder(save(tmp_path / "a.png"), n_per_class=1, image_size=SIZE)


@pytest.mark.parametrize("files", [[], ["notes.txt"], ["dogs/", "cats/notes.txt"]])
def test_a_folder_without_images_is_an_error(tmp_path, files):
    for name in files:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    shown = ".*notes.txt" if any("notes" in name for name in files) else "none$"
    with pytest.raises(ValueError, match=rf"{tmp_path} holds no images.*; it holds: {shown}"):
        image_folder(tmp_path, n_per_class=1, image_size=SIZE)


def test_a_class_with_too_few_images_is_an_error(classes):
    (classes / "n01443537/n01443537_1.JPEG").write_bytes(b"no")
    message = (
        r"class n01443537 of .* has 3 usable images, n_per_class=4 .*n01443537_1.JPEG \(cannot"
    )
    with pytest.raises(ValueError, match=message):
        image_folder(classes, n_per_class=4, image_size=SIZE)


def test_flat_names_without_synset_are_an_error(tmp_path):
    save(tmp_path / "n01440764_1.JPEG")
    save(tmp_path / "ILSVRC2012_val_00000293.JPEG")
    save(tmp_path / "n123_4.JPEG")
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000293.JPEG is of no class"):
        image_folder(tmp_path, n_per_class=1, image_size=SIZE)


def test_both_layouts_at_once_are_an_error(classes):
    save(classes / "n01440764_9.JPEG")
    with pytest.raises(ValueError, match=r"n01440764_9.JPEG is of no class"):
        image_folder(classes, n_per_class=1, image_size=SIZE)


@pytest.mark.parametrize(
    ("n_per_class", "image_size", "message"),
    [(0, 8, "n_per_class must be at least 1, got 0"), (1, 2.5, "image_size .* integer, got 2.5")],
)
def test_impossible_sizes_are_refused(classes, n_per_class, image_size, message):
    with pytest.raises(ValueError, match=message):
        image_folder(classes, n_per_class, image_size)


@pytest.mark.parametrize(
    ("indices", "message"),
    [([-1, 2], "at least 0, got -1"), ([], "at least one"), ([0, 6], "at most 5, got 6")],
)
def test_load_refuses_images_that_are_not_there(classes, indices, message):
    folder = image_folder(classes, n_per_class=2, image_size=SIZE)
    with pytest.raises(ValueError, match=message):
        folder.load(indices)
