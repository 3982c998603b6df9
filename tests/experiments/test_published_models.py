"""google/ddpm-* of diffusers: their blocks, an eighth of their channels, random weights.

The settings are those of the published folders: all in one folder, weights as a pickle, names of
the attentions as in the first versions of diffusers.
"""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import save_file

from hierphase.__main__ import main
from hierphase.experiments import registry
from hierphase.experiments.images import ImageExperiment
from hierphase.networks.classifiers import ConvClassifier
from hierphase.runs import results

SIZE = 32  # of all stand-ins
PLAIN = {"down": "DownBlock2D", "up": "UpBlock2D"}
WITH = {"down": "AttnDownBlock2D", "up": "AttnUpBlock2D"}


def settings(channels, attention, size):
    """``config.json`` of a model with attention at one of its resolutions."""
    down = [WITH["down"] if i == attention else PLAIN["down"] for i in range(len(channels))]
    up = [WITH["up"] if i == attention else PLAIN["up"] for i in reversed(range(len(channels)))]
    return {
        "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu",
        "attention_head_dim": None, "block_out_channels": channels, "center_input_sample": False,
        "down_block_types": down, "downsample_padding": 0, "flip_sin_to_cos": False,
        "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
        "norm_eps": 1e-6, "norm_num_groups": 32, "out_channels": 3, "sample_size": size,
        "time_embedding_type": "positional", "up_block_types": up,
    }  # fmt: skip


SCHEDULER = {
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02,
    "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": True,
    "num_train_timesteps": 1000, "trained_betas": None, "variance_type": "fixed_small",
}  # fmt: skip
CIFAR10 = settings([128, 256, 256, 256], 1, 32)
LARGE = settings([128, 128, 256, 256, 512, 512], 4, 256)
PRESETS = {
    "ddpm-cifar10-32": CIFAR10,
    "ddpm-celebahq-256": LARGE,
    "ddpm-church-256": LARGE,
    "ddpm-bedroom-256": LARGE,
}
FIRST_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def stand_in(folder, published, layout="published"):
    """Write a smaller model into a folder; the model."""
    small = {
        "block_out_channels": [n // 8 for n in published["block_out_channels"]],
        "norm_num_groups": published["norm_num_groups"] // 8,
        "sample_size": SIZE,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNet2DModel.from_config(published | small).eval()
    state = model.state_dict()
    parts = {name: folder / name if layout == "parts" else folder for name in ("unet", "scheduler")}
    for part in parts.values():
        part.mkdir(parents=True, exist_ok=True)
    (parts["unet"] / "config.json").write_text(json.dumps(published | small))
    (parts["scheduler"] / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    if layout == "parts":
        save_file(state, parts["unet"] / "diffusion_pytorch_model.safetensors")
        return model
    for new, old in FIRST_NAMES.items():
        state = {re.sub(rf"\.{new}\.", f".{old}.", name): x for name, x in state.items()}
    assert sum(".query." in name for name in state) == 2 * (1 + 2 + 3)  # middle, down, up
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    return model


def with_images(folder, preset, known=("smiling", "other")):
    """Parameters of a small experiment with a preset: images in two folders, a classifier."""
    for i, name in enumerate(("smiling", "not")):
        (folder / "images" / name).mkdir(parents=True)
        for k in range(2):
            pixels = np.random.default_rng([i, k]).integers(0, 256, (80, 70, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{k}.png")
    (folder / "images" / "classes.json").write_text(json.dumps({"not": None}))
    classifier = ConvClassifier(3, 2, (8, 8), class_names=known)
    classifier.save_pretrained(folder / "classifier")
    small = {
        "images": str(folder / "images"), "model": str(folder / "model"),
        "classifier": str(folder / "classifier"), "layers": ["stages.0", "logits"],
        "n_per_class": 2, "n_times": 2, "num_inference_steps": 4, "n_shown": 1,
        "precision": "float32", "classifier_weights": None, "batch_size": 4,
    }  # fmt: skip
    return registry.all_parameters("imagenet-transition", preset, small)


@pytest.mark.parametrize(("published", "millions"), [(CIFAR10, 35.7), (LARGE, 113.7)])
def test_settings_make_models_of_the_published_size(published, millions):
    with init_empty_weights():
        model = UNet2DModel.from_config(published)
    assert model.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("preset", ["ddpm-cifar10-32", "ddpm-church-256"])
def test_a_preset_runs_on_a_folder_as_published(preset, tmp_path):
    stand_in(tmp_path / "model", PRESETS[preset])
    parameters = with_images(tmp_path, preset)
    words = ["sweep", "imagenet-transition", "--preset", preset, "--output", str(tmp_path / "out")]
    for name, value in parameters.items():
        words += ["-p", name, str(value)]
    assert main(words) == 0
    result = results.load("imagenet-transition", preset, parameters, tmp_path / "out")
    assert result.sizes["image"] == 4 and result.similarity.notnull().all()
    assert result.label.values.tolist() == [-1, 0, -1, 0]  # the classifier knows one of the two
    assert (result.top_class >= 0).all()  # what x_0 is taken for counts
    assert result.sizes["row"] == result.sizes["column"] == SIZE


@pytest.mark.parametrize("preset", ["ddpm-celebahq-256", "ddpm-bedroom-256"])
def test_the_others_take_the_same_folders(preset, tmp_path):
    stand_in(tmp_path / "model", PRESETS[preset])
    ImageExperiment(with_images(tmp_path, preset)).check()


def test_both_layouts_are_the_model_that_was_saved(tmp_path):
    samples = {}
    for layout in ("published", "parts"):
        model = stand_in(tmp_path / layout / "model", CIFAR10, layout)
        experiment = ImageExperiment(with_images(tmp_path / layout, "ddpm-cifar10-32"))
        starts = experiment.world.starts(range(4))
        generators = experiment.generators(range(4))
        samples[layout] = experiment.world.denoised(starts, [0.0], generators).samples
        files = experiment.files()["model"]
        assert len(files) == 3 and all(path.is_file() for path in files.values())
    assert torch.equal(samples["published"], samples["parts"])
    pipeline = experiment.world.denoised.__closure__
    (network,) = (c.cell_contents.model for c in pipeline if hasattr(c.cell_contents, "model"))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(x, 500).sample, model(x, 500).sample)


class Code:
    def __reduce__(self):
        return print, ("run!",)


def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path, capsys):
    stand_in(tmp_path / "model", CIFAR10)
    path = tmp_path / "model" / "diffusion_pytorch_model.bin"
    parameters = with_images(tmp_path, "ddpm-cifar10-32")
    torch.save({"conv_in.weight": Code()}, path)
    with pytest.raises(ValueError, match=r"model\.bin: holds more than tensors .*could run code"):
        ImageExperiment(parameters).check()
    path.write_bytes(pickle.dumps({"conv_in.weight": Code()}))
    with pytest.raises(ValueError, match=r"model\.bin: .*give a file with the state dict only"):
        ImageExperiment(parameters).check()
    assert "run!" not in capsys.readouterr().out


def test_a_class_that_the_classifier_has_not_must_be_told(tmp_path):
    stand_in(tmp_path / "model", CIFAR10)
    parameters = with_images(tmp_path, "ddpm-cifar10-32")
    (tmp_path / "images" / "classes.json").write_text("{}")
    with pytest.raises(ValueError, match=r"\['not'\] are not each one class .* null where it has"):
        ImageExperiment(parameters).check()
