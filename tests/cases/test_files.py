"""Files that cannot be written, cannot be trusted, or are not ours: each a row of a table."""

import functools
import gc
import os
import re
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from hierphase import files
from hierphase.networks.checkpoints import load_checkpoint, save_checkpoint, save_model
from hierphase.networks.classifiers import ConvClassifier
from hierphase.runs import results

DATA = xr.Dataset({"p": ("x", np.arange(3.0))}, {"x": [1, 2, 3]})
RUN = {"name": "digits", "steps": 9, "seed": 0}


def write_weights(folder):
    save_model(ConvClassifier(), folder / "model")


def write_checkpoint(folder):
    save_checkpoint(folder, RUN, {"step": 3}, [ConvClassifier()])


def write_result(folder):
    results.save(DATA, "chapter", "preset", {}, folder)


def write_bytes(folder):
    files.write(bytes(100_000), folder / "file")


WRITERS = (write_weights, write_checkpoint, write_result, write_bytes)


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_named_and_nothing_is_left_or_lost(disk, write):
    folder = disk("8k")
    files.write(b"mine", folder / "file")
    with pytest.raises(files.WriteError, match=rf"^cannot write {folder}/.*: No space left on dev"):
        write(folder)
    assert (folder / "file").read_bytes() == b"mine"
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left <= {"file", "config.json"} and "config.json" not in left


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("é" * 200, "File name too long"),
        ("folder", "Is a directory"),
        ("file/below", "File exists|Not a directory"),
        ("file/below/it", "Not a directory"),
        ("loop/file", "Too many levels of symbolic links|File exists"),
    ],
)
def test_a_path_that_takes_no_file_is_named(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for write in (functools.partial(files.write, b"x"), files.output_directory):
        if name == "folder" and write is files.output_directory:
            continue
        with pytest.raises(files.WriteError, match=rf"cannot write {tmp_path}/{name}.*({reason})"):
            write(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file", "loop"}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_modes_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        for write in WRITERS:
            write(tmp_path)
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()}
    assert len(modes) == 5
    assert set(modes.values()) == {0o666 & ~umask}, modes


def gone_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("where", "pid", "age", "kept"),
    [
        (files._HERE, gone_process, 0, False),
        (files._HERE, os.getpid, 0, True),
        (files._HERE, os.getppid, 3600, True),
        (files._HERE, os.getpid, 2 * 86400, False),  # its number is ours by chance
        ("another-host-1", gone_process, 3600, True),
        ("another-host-1", gone_process, 2 * 86400, False),
        ("another", lambda: "no number", 3600, True),
    ],
)
def test_temporary_files_go_when_their_writers_are_gone(tmp_path, where, pid, age, kept):
    left = tmp_path / f".hierphase-{where}-{pid()}-0123abcd.tmp"
    for path in (left, tmp_path / ".hierphase-x.tmp", tmp_path / ".other.tmp", tmp_path / "a.tmp"):
        path.touch()
    os.utime(left, (time.time() - age,) * 2)
    files.write(b"x", tmp_path / "file")
    assert left.exists() == kept
    assert len(list(tmp_path.iterdir())) == 4 + kept


KILLED = """
import os, pathlib, signal, sys
from hierphase import files
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
files.write(b"new", pathlib.Path(sys.argv[1]))
"""


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_sweeps(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    ended = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    assert files.output_directory(tmp_path) == tmp_path
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("held", "refused"),
    [
        ([], False),
        ([".DS_Store", ".hierphase-a-1-b.tmp"], False),
        (["unet"], False),
        (["unet", "README.md"], True),
        (["README.md", ".git"], True),
    ],
)
def test_a_folder_of_something_else_is_not_written_into(tmp_path, held, refused):
    for name in held:
        (tmp_path / name).touch()
    check = functools.partial(files.check_holds_only, tmp_path, "a model", ["unet"])
    if refused:
        with pytest.raises(ValueError, match=r"holds README.md, not of a model: give an empty"):
            check()
    else:
        check()
    files.check_holds_only(tmp_path / "missing", "a model")


def save_network(path):
    torch.save(ConvClassifier().state_dict(), path)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_network(path):
    save_checkpoint(path.parent, RUN, {"step": 3}, [torch.nn.Linear(2, 2)])


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "flipped bit": flip,
    "text": lambda path: path.write_text("no checkpoint"),
    "other network": other_network,
    "no state of a training": lambda path: files.write(b"x", path, sealed=True),
    "weights alone": save_network,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path, damage):
    write_checkpoint(tmp_path)
    network = ConvClassifier()
    assert load_checkpoint(tmp_path, RUN, [network]) == {"step": 3}
    damage(tmp_path / "checkpoint.pt")
    message = re.escape(f"{tmp_path}/checkpoint.pt is damaged, or of another version (")
    with pytest.raises(ValueError, match=rf"{message}[^\n]*delete the file") as caught:
        load_checkpoint(tmp_path, RUN, [network])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, [1.0, {"a": -np.inf}], {1}, 1j, b"a", ..., DATA])
def test_a_parameter_that_json_has_no_word_for_is_not_stored(tmp_path, value):
    with pytest.raises(
        ValueError, match=r"parameter x cannot be [\s\S]*, for which JSON has no word"
    ):
        results.save(DATA, "chapter", "preset", {"L": 1, "x": value}, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def sparse(path, name):
    with h5py.File(path, "w") as file:
        file.create_dataset(name, shape=(10**13,), dtype="f8", chunks=(10**6,))
        file.attrs["parameters"] = "{}"


def with_parameters(path, text):
    files.write(results.netcdf(DATA.assign_attrs(parameters=text)), path)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:1]), "OSError"),
        (lambda path: sparse(path, "x"), "claims to hold 80000000000000 bytes, in a file of"),
        *(
            (functools.partial(with_parameters, text=text), "damaged or no stored result")
            for text in ("[]", '[["L", 3]]', "null", "3", '"L"', "NaN", "{", "", 3.0, [1, 2])
        ),
    ],
)
def test_a_damaged_result_is_refused_without_a_trace(tmp_path, damage, reason):
    path = results.result_path("chapter", "preset", tmp_path)
    files.write(results.netcdf(DATA.assign_attrs(parameters="{}")), path)
    xr.testing.assert_equal(results.load("chapter", "preset", {}, tmp_path), DATA)
    damage(path)
    with pytest.raises(ValueError, match=reason) as caught:
        results.load("chapter", "preset", {}, tmp_path)
    assert str(path) in str(caught.value)
    del caught
    gc.collect()
