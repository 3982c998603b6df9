"""Trainings that are killed, run out of disk, or are sent into somebody's folder."""

import dataclasses
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from sweeps import wait_for

from hierphase.__main__ import main
from hierphase.files import WriteError
from hierphase.networks import catalogue

NAME, STEPS = "digits-classifier", 40
SHORT = f"""
import dataclasses, sys
from hierphase.__main__ import main
from hierphase.networks.catalogue import TRAININGS
TRAININGS["{NAME}"] = dataclasses.replace(TRAININGS["{NAME}"], checkpoint_every=2)
sys.exit(main(["train", "{NAME}", "--steps", "{STEPS}", "--output", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return contents(catalogue.train(NAME, tmp_path_factory.mktemp("undisturbed"), STEPS))


def contents(directory):
    """Weights and losses."""
    weights = load_file(directory / "diffusion_pytorch_model.safetensors")
    log = (directory / "training.csv").read_text().splitlines()
    return {name: x.tolist() for name, x in weights.items()}, [x.rsplit(",", 1)[0] for x in log]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_training_goes_on_to_the_same_bits(undisturbed, tmp_path, sent):
    command = [sys.executable, "-c", SHORT, tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "checkpoint.pt").is_file)
    process.send_signal(sent)
    stderr = process.communicate(timeout=60)[1]
    if sent == signal.SIGTERM:
        assert process.returncode == 130
        begin = f"hierphase: training {NAME} was interrupted; the same command goes on from "
        assert stderr.splitlines()[-1] == f"{begin}its last checkpoint"
    assert not (tmp_path / "README.md").exists()
    assert contents(catalogue.train(NAME, tmp_path, STEPS)) == undisturbed
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("size", ["64k", "5M"])
def test_a_full_disk_ends_a_training_in_one_line(undisturbed, disk, size, capsys):
    folder = disk(size)
    command = ["train", NAME, "--steps", str(STEPS), "--output", str(folder / "model")]
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"hierphase: error: cannot write {folder}/model/")
    assert "No space left on device; the same command goes on from" in error
    assert not list(folder.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=20M", folder], check=True)
    assert main(command) == 0
    assert contents(folder / "model") == undisturbed


@pytest.mark.parametrize(
    ("held", "refused"),
    [
        ({}, False),
        ({".gitkeep": ""}, False),
        ({"README.md": "# digits-classifier\n\nmine"}, False),
        ({"README.md": "# My project\n"}, True),
        ({"README.md": "# digits-classifiers\n"}, True),
        ({"config.json": "{}"}, True),
        ({"training.csv": "a,b"}, True),
        ({"notes": ""}, True),
        ({"checkpoint.pt": "of another program"}, True),
    ],
)
def test_only_its_own_or_an_empty_folder_is_trained_into(tmp_path, held, refused, monkeypatch):
    def stop(*_):
        raise WriteError("got as far as the first step")

    changed = dataclasses.replace(catalogue.TRAININGS[NAME], loss=stop)
    monkeypatch.setitem(catalogue.TRAININGS, NAME, changed)
    for name, text in held.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError if refused else WriteError, match=r"holds|is damaged|first"):
        catalogue.train(NAME, tmp_path, STEPS)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == held
