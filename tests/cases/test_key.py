"""The key of a sweep: what changes the numbers changes it, and nothing else does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file

from hierphase.diffusion.model_folders import model_files
from hierphase.experiments import registry
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import ConvClassifier
from hierphase.runs import results, shards

CHAPTER, WEIGHTS = "imagenet-transition", "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Everything that a sweep of a stranger reads: a denoiser, a classifier and images."""
    folder = tmp_path_factory.mktemp("original")
    torch.manual_seed(0)
    small = {"block_out_channels": (8,), "norm_num_groups": 8, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(8, 3, 3, **small, **blocks)
    unet.save_pretrained(folder / "model/unet")
    shutil.copytree(model_directory("digits") / "scheduler", folder / "model/scheduler")
    ConvClassifier(3, 4, (8, 8), ("cat", "cow", "dog")).save_pretrained(folder / "classifier")
    for i, name in enumerate(("cat/b", "cat/c", "cat/d", "dog/b", "dog/c")):
        path = folder / f"images/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def arguments(folder, **changes):
    """Of :func:`registry.all_parameters`, for what lies in a folder."""
    places = {name: str(folder / name) for name in ("model", "classifier", "images")}
    sizes = {"n_per_class": 2, "n_times": 2, "num_inference_steps": 4, "n_shown": 0}
    more = {"layers": ["stages.0", "logits"], "batch_size": 4, "classifier_weights": None}
    return places | sizes | more | {"precision": "float32"} | changes


def key(folder, **changes):
    experiment, _ = registry.find(CHAPTER, "imagenet")
    shards.opened.cache_clear()
    parameters = registry.all_parameters(CHAPTER, "imagenet", arguments(folder, **changes))
    return shards.opened(experiment, json.dumps(parameters))[1]


def settings(name, **changes):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def weights(name):
    def change(folder):
        state = load_file(folder / name)
        next(iter(state.values())).view(-1)[0] += 1e-3
        save_file(state, folder / name)

    return change


def as_bin(shift):
    def change(folder):
        path = folder / "model/unet" / WEIGHTS
        state = load_file(path)
        next(iter(state.values())).view(-1)[0] += shift
        torch.save(state, path.with_name("diffusion_pytorch_model.bin"))
        path.unlink()

    return change


def swap(folder):
    b, c = (folder / f"images/cat/{name}.png" for name in "bc")
    contents = c.read_bytes(), b.read_bytes()
    b.write_bytes(contents[0])
    c.write_bytes(contents[1])


def copy_image(source, target):
    return lambda folder: shutil.copy(folder / "images" / source, folder / "images" / target)


def rename_class(folder):
    (folder / "images/cat").rename(folder / "images/cow")


CHANGED = {
    "prediction": settings("model/scheduler/scheduler_config.json", prediction_type="sample"),
    "scheduler": settings("model/scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
    "beta": settings("model/scheduler/scheduler_config.json", beta_end=0.021),
    "unet": settings("model/unet/config.json", flip_sin_to_cos=False),
    "weights": weights(f"model/unet/{WEIGHTS}"),
    "weights as .bin": as_bin(0),
    "other weights as .bin": as_bin(1e-3),
    "classifier": weights(f"classifier/{WEIGHTS}"),
    "image replaced": copy_image("cat/c.png", "cat/b.png"),
    "image in front": copy_image("cat/d.png", "cat/a.png"),
    "order": swap,
    "class": rename_class,
}
UNCHANGED = {
    "nothing": lambda folder: None,
    "time": lambda folder: [path.touch() for path in folder.rglob("*")],
    "image that is not taken": lambda folder: (folder / "images/cat/e.png").touch(),
    "card": lambda folder: (folder / "model/README.md").write_text("best of all"),
    "of the system": lambda folder: (folder / "model/.DS_Store").touch(),
}


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copytree(original, tmp_path / "elsewhere")


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_changed_input_changes_the_key(original, copy, change):
    change(copy)
    assert key(copy) != key(original)


@pytest.mark.parametrize("change", UNCHANGED.values(), ids=UNCHANGED)
def test_an_unchanged_input_in_another_folder_does_not(original, copy, change, monkeypatch):
    change(copy)
    assert key(copy) == key(original)
    monkeypatch.chdir(copy)
    assert key(Path()) == key(original)


def test_a_change_between_two_sweeps_of_one_process(copy, tmp_path):
    parameters = arguments(copy, n_per_class=1, n_times=1)
    for _ in range(2):  # as in a notebook
        registry.run_sweep(CHAPTER, "imagenet", parameters, tmp_path / "out")
        CHANGED["weights"](copy)
    assert len(list((tmp_path / "out/shards").iterdir())) == 2


def test_a_repaired_image_changes_the_key(copy):
    whole = (copy / "images/cat/b.png").read_bytes()
    (copy / "images/cat/b.png").write_bytes(whole[:50])
    with pytest.warns(UserWarning, match="1 files"):
        before = key(copy)
    (copy / "images/cat/b.png").write_bytes(whole)
    assert key(copy) != before


def test_a_changed_parameter_version_processor_or_numerics_change_the_key(original, monkeypatch):
    keys = [key(original), *(key(original, **change) for change in ({"seed": 1}, {"n_times": 3}))]
    for place, name, value in (
        (results, "package_versions", lambda: {}),
        (shards, "NUMERICS", 0),
        (torch.backends.cpu, "get_cpu_capability", lambda: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            keys.append(key(original))
    assert len({*keys}) == len(keys)


def test_checkpoint_files_go_by_their_contents(tmp_path):
    for name in ("model.pt", "a.safetensors", "b.bin"):
        (tmp_path / name).write_bytes(b"1")
        assert model_files(tmp_path / name) == {"": tmp_path / name}


@pytest.mark.parametrize("preset", ["digits", "flat-digits"])
def test_any_size_of_shards_gives_the_same_bits(preset):
    experiment, _ = registry.find(CHAPTER, preset)
    small = {"n_per_class": 2, "n_times": 2, "n_shown": 3}
    small |= {} if preset.startswith("flat") else {"num_inference_steps": 4, "batch_size": 8}
    computed = experiment(registry.all_parameters(CHAPTER, preset, small))
    prepared = computed.prepare()
    whole = computed.measure(0, 20, prepared)
    for start, stop in ((0, 1), (1, 2), (7, 9), (3, 20), (19, 20)):
        part = computed.measure(start, stop, prepared)
        rows = whole.isel(image=slice(start, stop)).drop_dims("shown")
        assert part.drop_dims("shown").identical(rows), (start, stop)


def test_any_size_of_shards_gives_the_same_bits_of_correlations():
    small = {"n_per_class": 1, "n_times": 2, "num_inference_steps": 4, "n_trajectories": 2}
    small |= {"batch_size": 8}
    experiment, _ = registry.find("image-correlations", "digits")
    computed = experiment(registry.all_parameters("image-correlations", "digits", small))
    prepared = computed.prepare()
    whole = computed.measure(0, 10, prepared)
    for start, stop in ((0, 1), (4, 6), (9, 10)):
        part = computed.measure(start, stop, prepared)
        assert part.identical(whole.isel(image=slice(start, stop))), (start, stop)
