"""What a file of each kind gives in [-1, 1]: a line for each kind of pixels."""

import io
import os
import socket
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from hierphase.diffusion.image_folder import centre_square, image_folder

RED, GREY, DARK = (200, 40, 90), (128,) * 3, (0, 0, 0)
WHITE = (255,) * 3


def only(folder, content, name="a.png"):
    """Bytes as the one image of a folder with one class."""
    (folder / "class").mkdir()
    (folder / "class" / name).write_bytes(content)
    return folder


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def array(values, dtype):
    """A picture of two columns: 8 x 8, its left half of the first value, its right of the last."""
    return Image.fromarray(np.repeat(np.array([values], dtype), 4, 1).repeat(8, 0))


def halves(mode, left, right):
    image = Image.new(mode, (8, 8), left)
    image.paste(right, (4, 0, 8, 8))
    return image


def palette(*colours, **options):
    image = Image.new("P", (8, 8), 0)
    image.paste(1, (4, 0, 8, 8))
    image.putpalette([x for colour in colours for x in colour])
    return saved(image, **options)


def tiff(image, **tags):
    """A TIFF whose tags are changed in place: bits=258, black=262, signs=339."""
    content, numbers = bytearray(saved(image, "TIFF")), {"bits": 258, "black": 262, "sign": 339}
    for name, value in tags.items():
        tag = numbers[name].to_bytes(2, "little") + b"\3\0\1\0\0\0"
        place = content.index(tag) + len(tag)
        content[place : place + 2] = value.to_bytes(2, "little")
    return bytes(content)


def turned(kind):
    exif = Image.Exif()
    exif[0x0112] = 3
    return saved(halves("RGB", RED, DARK), kind, exif=exif, quality=100, subsampling=0)


def png16(kind, left, right):
    """A PNG of 16 bits, which Pillow cannot write: kind 2 is colour, 4 grey and alpha, 6 both."""
    row = b"\0" + struct.pack(f">{4 * len(left) * 2}H", *(left * 4 + right * 4))
    chunks = [(b"IHDR", struct.pack(">2I5B", 8, 8, 16, kind, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(row * 8)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


MOVING = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "white")]}

PIXELS = {  # the file -> left and right of what is seen, 0..255
    "8 bits grey": (saved(halves("L", 128, 7), "PNG"), GREY, (7,) * 3),
    "8 bits colour": (saved(halves("RGB", RED, DARK), "PNG"), RED, DARK),
    "1 bit": (saved(halves("1", 1, 0), "PNG"), WHITE, DARK),
    "1 bit BMP": (saved(halves("1", 0, 1), "BMP"), DARK, WHITE),
    "16 bits PNG": (saved(array([128 * 257, 65535], np.uint16), "PNG"), GREY, WHITE),
    "16 bits PNG, rounded": (saved(array([385, 386], np.uint16), "PNG"), (1,) * 3, (2,) * 3),
    "16 bits colour": (png16(2, (200 * 257, 40 * 257, 90 * 257), (0, 0, 0)), RED, DARK),
    "16 bits grey and alpha": (png16(4, (128 * 257, 0), (65535, 65535)), GREY, WHITE),
    "16 bits colour and alpha": (png16(6, (65535,) * 3 + (0,), (0,) * 4), WHITE, DARK),
    "16 bits TIFF": (saved(array([128 * 257, 0], np.uint16), "TIFF"), GREY, DARK),
    "16 bits big-endian": (saved(array([128 * 257, 65535], ">u2"), "TIFF"), GREY, WHITE),
    "16 bits compressed": (
        saved(array([128 * 257, 257], np.uint16), "TIFF", compression="tiff_adobe_deflate"),
        GREY, (1,) * 3,
    ),
    "floats": (saved(array([128 / 255, 1], np.float32), "TIFF"), GREY, WHITE),
    "floats of one value": (saved(array([0, 0], np.float32), "TIFF"), DARK, DARK),
    "palette": (palette(RED, GREY, kind="PNG"), RED, GREY),
    "palette, one transparent": (palette(RED, GREY, kind="PNG", transparency=0), RED, GREY),
    "palette, alpha": (palette(RED, GREY, kind="PNG", transparency=bytes([0, 9])), RED, GREY),
    "palette GIF": (palette(RED, GREY, kind="GIF", transparency=1), RED, GREY),
    "grey and alpha": (saved(halves("LA", (128, 0), (0, 255)), "PNG"), GREY, DARK),
    "colour and alpha": (saved(halves("RGBA", (*RED, 0), (*GREY, 99)), "PNG"), RED, GREY),
    "CMYK": (saved(halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 127)), "TIFF"), (255, 0, 0), GREY),
    "CMYK JPEG": (saved(halves("CMYK", (0,) * 4, (0, 0, 0, 255)), "JPEG"), WHITE, DARK),
    "YCbCr": (saved(halves("YCbCr", (128, 128, 128), (0, 128, 128)), "TIFF"), GREY, DARK),
    "turned JPEG": (turned("JPEG"), RED, DARK),  # as guided-diffusion and torchvision see it
    "turned PNG": (turned("PNG"), RED, DARK),
    "turned TIFF": (turned("TIFF"), DARK, RED),
    "moving GIF": (saved(halves("RGB", DARK, WHITE), "GIF", **MOVING), DARK, WHITE),
    "moving WEBP": (
        saved(halves("RGB", DARK, WHITE), "WEBP", lossless=True, **MOVING), DARK, WHITE,
    ),
    "TIFF of two pages": (saved(halves("RGB", RED, DARK), "TIFF", **MOVING), RED, DARK),
}  # fmt: skip


@pytest.mark.parametrize("kind", PIXELS)
def test_a_file_gives_these_pixels(tmp_path, kind):
    content, left, right = PIXELS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Palette images with Transparency")
        loaded = image_folder(only(tmp_path, content), 1, 8).load([0])[0]
    seen = (loaded + 1) * 127.5
    lossy = 3 if "JPEG" in kind else 1e-4
    for found, colour in ((seen[:, :, :4], left), (seen[:, :, 4:], right)):
        assert (found - torch.tensor(colour).view(3, 1, 1)).abs().max() <= lossy


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
REFUSED = {  # the file -> why
    "floats to 255": (saved(array([0, 255], np.float32), "TIFF"), "floats from 0 to 255, not from"),
    "floats below 0": (saved(array([-1, 1], np.float32), "TIFF"), "floats from -1 to 1, not from"),
    "NaN": (saved(array([np.nan, 1], np.float32), "TIFF"), "floats from nan to nan"),
    "32 bits": (saved(array([0, 9], np.int32), "TIFF"), "mode I of unknown range"),
    "12 bits": (tiff(array([0, 9], np.uint16), bits=12), "mode I;16 of unknown range"),
    "16 bits, 0 is white": (tiff(array([0, 9], np.uint16), black=0), "mode I;16 of unknown range"),
    "floats, 0 is white": (tiff(array([0, 1], np.float32), black=0), "mode F of unknown range"),
    "16 bits signed": (tiff(array([0, 9], np.int32), bits=16), "mode I of unknown range or signed"),
    **{
        f"truncated {kind}": (saved(NOISE, kind)[:-900], ".")
        for kind in ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
    },
    "text": (b"no image", "cannot identify image file"),
    "nothing": (b"", "cannot identify image file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_cannot_be_right_is_refused_with_its_name(tmp_path, kind):
    content, reason = REFUSED[kind]
    with pytest.raises(ValueError, match=rf"class class .* class/a.png \(.*{reason}") as caught:
        image_folder(only(tmp_path, content), 1, 8)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = PIXELS["palette"][0]
    files = only(tmp_path, content, "03.png") / "class"
    os.mkfifo(files / "00.png")
    (files / "01.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("class/02.png")
    os.mkfifo("classes.json")
    run = [
        sys.executable, "-c",
        "from hierphase.diffusion.image_folder import image_folder as f; print(f('.', 1, 8).paths)",
    ]  # fmt: skip
    found = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    for name in ("00.png", "01.png", "02.png"):
        assert f"class/{name} (no regular file)" in found.stderr
    assert "class/03.png" in found.stdout


def test_one_that_becomes_a_pipe_is_not_opened(tmp_path):
    folder = image_folder(only(tmp_path, PIXELS["palette"][0]), 1, 8)
    folder.paths[0].unlink()
    os.mkfifo(folder.paths[0])
    with pytest.raises(ValueError, match=r"cannot read the image .*class/a.png: no regular file"):
        folder.load([0])


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(1, 1, 256), (1, 2, 64), (2, 3, 64), (50_000, 1, 256), (1, 50_000, 256), (50_000, 300, 256),
     (300, 50_000, 256), (3, 1_000_000, 512), (2_000_000, 2, 512)],
)  # fmt: skip
def test_extreme_images_need_no_gigabytes(tmp_path, width, height, size):
    """The middle pixels are red, in less than a second, where gigabytes take many."""
    image = Image.new("RGB", (width, height), RED)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    square = np.asarray(centre_square(image, size))
    assert square.shape == (size, size, 3)
    assert (square == RED).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.mark.parametrize("size", [8193, 10**6, 10**30])
def test_too_large_a_size_is_refused_before_anything_is_read(tmp_path, size):
    with pytest.raises(ValueError, match=f"image_size must be at most 8192, got {size}"):
        image_folder(tmp_path / "nowhere", 1, size)


def whole(image, size):
    """guided-diffusion's way: all of the image is resized, rows first, then cropped."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    width, height = (round(side * size / min(image.size)) for side in image.size)
    image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


@pytest.mark.parametrize("seed", range(40))
def test_cropping_first_changes_nothing_but_rounding(seed):
    generator = np.random.default_rng(seed)
    size = int(generator.choice([8, 32, 64]))
    height, width = generator.integers(size // 3 + 1, 4 * size, 2)
    image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
    found, expected = (np.asarray(way(image, size), int) for way in (centre_square, whole))
    assert abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.02
