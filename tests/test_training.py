import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file

from hierphase import training
from hierphase.datasets import ImageData
from hierphase.pipeline import ForwardBackwardPipeline
from hierphase.quality import nearest_distance, sample_quality
from hierphase.seeds import derived_generator

STEPS = 7


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The real trainings with a checkpoint every 2 steps and a handful of samples at the end."""
    finish = training._finish_denoiser("digits-classifier", n_samples=8, num_inference_steps=3)
    for name, changes in {"digits": {"finish": finish}, "digits-classifier": {}}.items():
        changed = dataclasses.replace(training.TRAININGS[name], checkpoint_every=2, **changes)
        monkeypatch.setitem(training.TRAININGS, name, changed)


def weights(directory: Path) -> dict:
    (path,) = directory.rglob("*.safetensors")
    return load_file(path)


def log(directory):
    with (directory / training.LOG).open() as file:
        return [(row["step"], row["loss"], row["learning_rate"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["digits", "digits-classifier"])
def test_killed_training_resumes_to_the_same_weights(name, tmp_path, monkeypatch):
    undisturbed = training.train(name, tmp_path / "undisturbed", steps=STEPS)

    loss, calls = training.TRAININGS[name].loss, []

    def killing_loss(*arguments):
        calls.append(arguments)
        if len(calls) == 6:  # two steps done since the last checkpoint are lost
            raise KeyboardInterrupt
        return loss(*arguments)

    changed = dataclasses.replace(training.TRAININGS[name], loss=killing_loss)
    monkeypatch.setitem(training.TRAININGS, name, changed)
    with pytest.raises(KeyboardInterrupt):
        training.train(name, tmp_path / "killed", steps=STEPS)
    with pytest.raises(ValueError, match=r'"seed": 0.*, not to .*"seed": 1.*delete the file'):
        training.train(name, tmp_path / "killed", steps=STEPS, seed=1)
    resumed = training.train(name, tmp_path / "killed", steps=STEPS)

    assert len(calls) == 6 + STEPS - 4  # steps 1 to 4 were not done again
    expected = weights(undisturbed)
    assert weights(resumed).keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in weights(resumed).items())
    assert log(resumed) == log(undisturbed)
    assert [row[0] for row in log(resumed)] == [str(step + 1) for step in range(STEPS)]


def test_trained_denoiser_is_in_the_layout_of_diffusers(tmp_path):
    directory = training.train("digits", tmp_path, steps=1, seed=3)
    unet = UNet2DModel.from_pretrained(directory, subfolder="unet")
    scheduler = DDPMScheduler.from_pretrained(directory, subfolder="scheduler")
    weights_there = DDPMPipeline.from_pretrained(directory).unet.state_dict()
    assert all(torch.equal(weights_there[key], value) for key, value in unet.state_dict().items())
    betas = torch.linspace(1e-4, 0.02, 1000)
    torch.testing.assert_close(scheduler.betas, betas)
    samples = ForwardBackwardPipeline(unet, scheduler)(torch.zeros(2, 1, 8, 8), [500], 4).samples
    assert samples.isfinite().all()
    card = (directory / "README.md").read_text()
    assert "1 steps of 64 images" in card and "seed 3" in card and "confident_held_out" in card
    assert {path.name for path in directory.iterdir()} == {
        "README.md", "training.csv", "model_index.json", "unet", "scheduler"
    }  # fmt: skip


def test_seeds_give_other_weights_and_classifier_learns(tmp_path):
    first = training.train("digits-classifier", tmp_path / "0", steps=60)
    second = training.train("digits-classifier", tmp_path / "1", steps=60, seed=1)
    assert not torch.equal(weights(first)["logits.weight"], weights(second)["logits.weight"])
    losses = [float(row[1]) for row in log(first)]
    assert losses[0] > 2.0 and min(losses[-5:]) < 1.5
    assert losses[0] == pytest.approx(torch.tensor(10.0).log().item(), abs=0.3)


def test_denoising_loss_is_zero_for_perfect_and_one_for_no_prediction():
    images = torch.full((500, 1, 4, 4), 0.5)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)

    def perfect(noisy, times):
        alpha = alphas[times].view(-1, 1, 1, 1)
        return type("Output", (), {"sample": (noisy - alpha.sqrt() * 0.5) / (1 - alpha).sqrt()})

    def silent(noisy, times):
        return type("Output", (), {"sample": torch.zeros_like(noisy)})

    generator = derived_generator(0)
    assert training.denoising_loss(perfect, images, None, generator) < 1e-6
    assert training.denoising_loss(silent, images, None, generator) == pytest.approx(1, abs=0.05)


def test_the_books_digits_look_like_digits():
    quality = {}
    for line in (training.model_directory("digits") / "README.md").read_text().splitlines():
        match [cell.strip() for cell in line.strip("|").split("|")]:
            case [name, value] if name not in ("quality", "---"):
                quality[name] = float(value)
    assert quality["confident"] > 0.85
    assert 0.03 < quality["rarest_class"] and quality["commonest_class"] < 0.2
    assert quality["distance"] > 0.8 * quality["distance_held_out"]  # no copies of training images


def test_sample_quality_of_known_samples():
    def classifier(images):
        return torch.stack([images[:, 0, 0, 0] * 50, torch.zeros(len(images))], dim=1)

    train_images, test_images = torch.ones(4, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    labels = torch.zeros(4, dtype=torch.int64)
    data = ImageData(train_images, labels, test_images, labels[:2], ("a", "b"))
    samples = torch.tensor([1.0, 1.0, -1.0, 0.0]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    assert sample_quality(samples, data, classifier) == {
        "confident": 0.75,
        "confident_held_out": 0.0,
        "rarest_class": 0.25,
        "commonest_class": 0.75,
        "distance": 0.0,
        "distance_held_out": 2.0,
    }
    assert nearest_distance(samples, train_images).tolist() == [0.0, 0.0, 4.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist"}, "unknown training 'mnist'; there are digits, digits-classifier"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        training.train(**{"name": "digits", "output": tmp_path / "none"} | arguments)
    assert not (tmp_path / "none").exists()


def test_missing_models_name_the_command(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    monkeypatch.setenv("HIERPHASE_BOOK", str(tmp_path / "book"))
    with pytest.raises(FileNotFoundError, match="hierphase train digits-classifier"):
        training.train("digits", steps=1)
