import csv
import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file
from sklearn.neighbors import NearestNeighbors

from hierphase.diffusion.datasets import ImageData
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.networks import catalogue, objectives, training
from hierphase.networks.rhm_catalogue import tree_classifier
from hierphase.networks.rhm_classifier import TreeClassifier
from hierphase.networks.sample_quality import (
    frechet_distance,
    is_weak,
    manifold_share,
    nearest_distance,
    sample_quality,
)
from hierphase.rhm.dataset import encode
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.seeds import derived_generator

STEPS = 7


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The real trainings with a checkpoint every 2 steps and a handful of samples at the end."""
    report = catalogue.TRAININGS["digits"].report
    few = functools.partial(report, n_samples=8, num_inference_steps=3)
    trainings = {"digits": {"report": few}, "digits-classifier": {}, "rhm-cnn": {}}
    for name, changes in trainings.items():
        changed = dataclasses.replace(catalogue.TRAININGS[name], checkpoint_every=2, **changes)
        monkeypatch.setitem(catalogue.TRAININGS, name, changed)


def weights(directory: Path) -> dict:
    (path,) = directory.rglob("*.safetensors")
    return load_file(path)


def log(directory):
    with (directory / training.LOG).open() as file:
        return [(row["step"], row["loss"], row["learning_rate"]) for row in csv.DictReader(file)]


def test_a_training_that_diverges_is_no_result(tmp_path, monkeypatch):
    changed = dataclasses.replace(catalogue.TRAININGS["rhm-cnn"], learning_rate=1e30)
    monkeypatch.setitem(catalogue.TRAININGS, "rhm-cnn", changed)
    with pytest.raises(ValueError, match=r"rhm-cnn: the loss of step [23] is (nan|inf)"):
        catalogue.train("rhm-cnn", tmp_path, steps=STEPS)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["digits", "digits-classifier", "rhm-cnn"])
def test_killed_training_resumes_to_the_same_weights(name, tmp_path, monkeypatch):
    undisturbed = catalogue.train(name, tmp_path / "undisturbed", steps=STEPS)

    loss, calls = catalogue.TRAININGS[name].loss, []

    def killing_loss(*arguments):
        calls.append(arguments)
        if len(calls) == 6:  # two steps done since the last checkpoint are lost
            raise KeyboardInterrupt
        return loss(*arguments)

    changed = dataclasses.replace(catalogue.TRAININGS[name], loss=killing_loss)
    monkeypatch.setitem(catalogue.TRAININGS, name, changed)
    with pytest.raises(KeyboardInterrupt, match=f"{name} was interrupted; the same"):
        catalogue.train(name, tmp_path / "killed", steps=STEPS)
    with pytest.raises(ValueError, match=r"'seed': 0.*, not to .*'seed': 1.*delete the file"):
        catalogue.train(name, tmp_path / "killed", steps=STEPS, seed=1)
    resumed = catalogue.train(name, tmp_path / "killed", steps=STEPS)

    assert len(calls) == 6 + STEPS - 4  # steps 1 to 4 were not done again
    expected = weights(undisturbed)
    assert weights(resumed).keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in weights(resumed).items())
    assert log(resumed) == log(undisturbed)
    assert [row[0] for row in log(resumed)] == [str(step + 1) for step in range(STEPS)]


def test_trained_denoiser_is_in_the_layout_of_diffusers(tmp_path):
    directory = catalogue.train("digits", tmp_path, steps=1, seed=3)
    unet = UNet2DModel.from_pretrained(directory, subfolder="unet")
    scheduler = DDPMScheduler.from_pretrained(directory, subfolder="scheduler")
    weights_there = DDPMPipeline.from_pretrained(directory).unet.state_dict()
    assert all(torch.equal(weights_there[key], value) for key, value in unet.state_dict().items())
    betas = torch.linspace(1e-4, 0.02, 1000)
    torch.testing.assert_close(scheduler.betas, betas)
    samples = ForwardBackwardPipeline(unet, scheduler)(torch.zeros(2, 1, 8, 8), [500], 4).samples
    assert samples.isfinite().all()
    card = (directory / "README.md").read_text()
    for fact in ("- steps: 1\n", "- batch size: 64\n", "- seed: 3\n", "| confident_held_out |"):
        assert fact in card
    assert {path.name for path in directory.iterdir()} == {
        "README.md", "training.csv", "quality.json", "model_index.json", "unet", "scheduler"
    }  # fmt: skip


def test_a_saved_model_is_judged_anew_to_the_same_numbers(tmp_path):
    name = "digits-classifier"
    catalogue.train(name, tmp_path, steps=3)
    card, quality = (tmp_path / "README.md").read_text(), (tmp_path / "quality.json").read_text()
    (tmp_path / "README.md").write_text(card.replace("Classifier of", "What was of"))
    (tmp_path / "quality.json").write_text("{}")
    training.judge_saved(catalogue.TRAININGS[name], name, tmp_path, seed=0)
    assert (tmp_path / "README.md").read_text() == card
    assert (tmp_path / "quality.json").read_text() == quality


def test_the_card_names_a_variation_that_has_no_name(tmp_path, monkeypatch):
    vary = (functools.partial(objectives.mirrored),)
    entry = dataclasses.replace(catalogue.TRAININGS["digits-classifier"], vary=vary)
    monkeypatch.setitem(catalogue.TRAININGS, "digits-classifier", entry)
    card = (catalogue.train("digits-classifier", tmp_path, steps=1) / "README.md").read_text()
    assert "- varied by: functools.partial(<function mirrored" in card


def test_seeds_give_other_weights_and_classifier_learns(tmp_path):
    first = catalogue.train("digits-classifier", tmp_path / "0", steps=60)
    second = catalogue.train("digits-classifier", tmp_path / "1", steps=60, seed=1)
    assert not torch.equal(weights(first)["logits.weight"], weights(second)["logits.weight"])
    losses = [float(row[1]) for row in log(first)]
    assert losses[0] > 2.0 and min(losses[-5:]) < 1.5
    assert losses[0] == pytest.approx(torch.tensor(10.0).log().item(), abs=0.3)


def test_classifier_of_a_small_tree_learns_its_rules(tmp_path, monkeypatch):
    rhm = RandomHierarchyModel(6, 2, 2, 3)
    monkeypatch.setitem(catalogue.TRAININGS, "rhm-cnn", tree_classifier(6, 2, 2, 3, seed=0))
    directory = catalogue.train("rhm-cnn", tmp_path, steps=400)
    assert json.loads((directory / training.QUALITY).read_text())["accuracy_held_out"] > 0.99
    assert "- muon: True" in (directory / "README.md").read_text()
    stored = weights(directory)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    network = TreeClassifier.from_pretrained(directory)
    levels = rhm.sample(500, seed=77)
    predicted = network(encode(levels[0], 6)).argmax(1)
    assert (predicted == levels[-1][:, 0]).float().mean() > 0.98


def test_denoising_loss_is_zero_for_perfect_and_one_for_no_prediction():
    images = torch.full((500, 1, 4, 4), 0.5)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)

    def perfect(noisy, times):
        alpha = alphas[times].view(-1, 1, 1, 1)
        return type("Output", (), {"sample": (noisy - alpha.sqrt() * 0.5) / (1 - alpha).sqrt()})

    def silent(noisy, times):
        return type("Output", (), {"sample": torch.zeros_like(noisy)})

    generator = derived_generator(0)
    assert objectives.denoising_loss(perfect, images, None, generator) < 1e-6
    assert objectives.denoising_loss(silent, images, None, generator) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_the_books_samples_look_like_the_data(name):
    directory = catalogue.model_directory(name)
    quality = json.loads((directory / training.QUALITY).read_text())
    assert quality["confident"] > 0.7 * quality["confident_held_out"]
    assert 0.03 < quality["rarest_class"] and quality["commonest_class"] < 0.2
    for quantile in ("", "_5", "_1"):  # no copies of training images
        assert quality[f"distance{quantile}"] > 0.8 * quality[f"distance{quantile}_held_out"]
    assert not is_weak(quality)
    assert quality["frechet_train"] < quality["frechet"] < 1  # 2.4 along the flow, which errs more
    card = (directory / "README.md").read_text()
    for number, value in quality.items():
        assert f"| {number} | {value:.4f} |" in card
    stored = next(iter(weights(directory).values()))
    assert stored.dtype == torch.float16


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [("digits-classifier", 0.97), ("fashion-mnist-classifier", 0.925), ("mnist-classifier", 0.99)],
)
def test_the_books_classifiers_are_good_judges(name, accuracy):
    quality = json.loads((catalogue.model_directory(name) / training.QUALITY).read_text())
    assert quality["accuracy_held_out"] >= accuracy


class BrightnessClassifier:
    """Two classes by the first pixel, whose features are the pixels."""

    def features(self, images):
        return images.flatten(1)

    def logits(self, features):
        return torch.stack([features[:, 0] * 50, torch.zeros(len(features))], dim=1)


def uniform(*values):
    """Images of one grey value each."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_sample_quality_of_known_samples():
    train, held_out = uniform(1.0, 1.0, 1.0, 1.0), uniform(0.0, 0.0, 0.0, 0.0)
    labels = torch.zeros(4, dtype=torch.int64)
    data = ImageData(train, labels, held_out, labels, ("a", "b"))
    samples = uniform(1.0, 1.0, -1.0, 0.0)
    judge = BrightnessClassifier()
    quality = sample_quality(samples, data, classifier=judge, other=judge)
    distances = {
        "distance": 1.0,  # between 0 and 2
        "distance_5": 0.0,
        "distance_1": 0.0,
        "distance_held_out": 2.0,
        "distance_5_held_out": 2.0,
        "distance_1_held_out": 2.0,
    }
    judged = {
        "confident": 0.75,
        "confident_held_out": 0.0,
        "rarest_class": 0.25,
        "commonest_class": 0.75,
        # mean 1/4 and one direction of variance: 4 (1/4)^2 + 4 (11/12)
        "frechet": 4 / 16 + 4 * 11 / 12,
        "frechet_train": 4.0,
        "precision": 0.25,  # the manifold of held-out images is one point
        "recall": 1.0,
        "precision_train": 0.0,
        "recall_train": 0.0,
    }
    expected = distances | judged | {f"other_{name}": value for name, value in judged.items()}
    assert quality == pytest.approx(expected)
    assert nearest_distance(samples, train).tolist() == [0.0, 0.0, 4.0, 2.0]


def test_mirrored_copies_of_training_images_are_copies():
    generator = torch.Generator().manual_seed(0)
    train, held_out = (2 * torch.rand(6, 1, 2, 2, generator=generator) - 1 for _ in range(2))
    labels = torch.zeros(6, dtype=torch.int64)
    data = ImageData(train, labels, held_out, labels, ("a", "b"))
    quality = sample_quality(train.flip(-1), data)
    assert quality["distance"] == pytest.approx(0.0, abs=1e-3)
    assert quality["distance_held_out"] > 0.1


def test_manifold_share_by_hand_and_against_another_implementation():
    references = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii 1, 1, 1, 8
    points = torch.tensor([[-1.0], [-1.1], [18.0], [18.1], [2.5]])
    assert manifold_share(points, references, k=1) == pytest.approx(3 / 5)
    generator = np.random.default_rng(0)
    points, references = generator.normal(size=(200, 6)), 0.7 * generator.normal(size=(150, 6))
    radii = NearestNeighbors(n_neighbors=4).fit(references).kneighbors(references)[0][:, 3]
    covered = [(np.linalg.norm(references - x, axis=1) <= radii).any() for x in points]
    found = manifold_share(torch.from_numpy(points), torch.from_numpy(references))
    assert found == np.mean(covered) and 0.2 < found < 0.8


@pytest.mark.parametrize(
    ("changes", "weak"),
    [
        ({}, False),
        ({"confident": 0.39}, True),
        ({"frechet": 5.0}, True),
        ({"witness_confident": 0.19}, True),
        ({"witness_frechet": 70.0}, True),
    ],
)
def test_a_denoiser_is_weak_by_either_rule_of_either_judge(changes, weak):
    own = {"confident": 0.4, "confident_held_out": 0.8, "frechet": 4.9, "frechet_train": 0.5}
    witness = {"confident": 0.2, "confident_held_out": 0.4, "frechet": 69.0, "frechet_train": 7.0}
    quality = own | {f"witness_{name}": value for name, value in witness.items()}
    assert is_weak(quality | changes) is weak


def test_frechet_distance_of_equal_data_is_zero_up_to_rounding():
    """Also where the covariance is singular: no square root of a rounding error."""
    generator = np.random.default_rng(0)
    features = torch.from_numpy(generator.normal(size=(50, 3)) @ generator.normal(size=(3, 40)))
    assert abs(frechet_distance(features, features.flip(0))) < 1e-11


def test_frechet_distance_against_scipy_and_for_shifted_data():
    generator = np.random.default_rng(0)
    first = generator.normal(size=(400, 5)) @ generator.normal(size=(5, 5))
    second = generator.normal(size=(300, 5)) @ generator.normal(size=(5, 5)) + 1
    a, b = np.cov(first.T), np.cov(second.T)
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(
        a + b - 2 * scipy.linalg.sqrtm(a @ b).real
    )
    first, second = torch.from_numpy(first), torch.from_numpy(second)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(first, first + 2) == pytest.approx(5 * 4, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, r"unknown training 'imagenet'.*; known: digits, digits"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        catalogue.train(**{"name": "digits", "output": tmp_path / "none"} | arguments)
    assert not (tmp_path / "none").exists()


def test_missing_models_name_the_command(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "book/page.md").touch()  # a book, but without models
    monkeypatch.setenv("HIERPHASE_BOOK", str(tmp_path / "book"))
    with pytest.raises(FileNotFoundError, match="hierphase train digits-classifier"):
        catalogue.train("digits", steps=1)
