"""Parameters of experiments: what is wrong is refused before any work, on the command line and off.

A row is a sweep, its preset, parameters as typed, and a part of the one line that is printed.
"""

import re
import shutil

import pytest
import torch
import xarray as xr

from hierphase.__main__ import main
from hierphase.experiments import images, registry
from hierphase.experiments.base import Experiment
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import ConvClassifier
from hierphase.parameters import parse_value
from hierphase.runs import shards

IMAGES, FIELDS, TREE = "imagenet-transition", "image-correlations", "correlations"
TOO_LARGE = str(2**64)

WRONG = [
    (IMAGES, "digits", {"n_times": "1001"}, "n_times must be at most 1000"),
    (IMAGES, "digits", {"n_times": "0"}, "n_times must be at least 1, got 0"),
    (IMAGES, "digits", {"n_times": "True"}, "n_times .* True is of type bool"),
    (IMAGES, "digits", {"n_times": "2.0"}, "n_times .* 2.0 is of type float"),
    (IMAGES, "digits", {"num_inference_steps": "1001"}, "num_inference_steps must be at most 1000"),
    (IMAGES, "flat-digits", {"n_times": "1001"}, "n_times must be at most 1000"),
    (IMAGES, "digits", {"seed": TOO_LARGE}, f"seed must be at most {2**64 - 1}, got {TOO_LARGE}"),
    (IMAGES, "digits", {"seed": "-1"}, "seed must be at least 0"),
    (IMAGES, "digits", {"layers": "['logits', 'logits']"}, "layers must name .* each once"),
    (IMAGES, "digits", {"layers": "['stages.9', 'logits']"}, "model 'stages.9'"),
    (IMAGES, "digits", {"layers": "['', 1]"}, "layers .* 1 is of type int"),
    (IMAGES, "digits", {"model": "None"}, "model must be of type str, got None"),
    (IMAGES, "digits", {"images": "None"}, "images must be of type str, got None"),
    (IMAGES, "digits", {"classifier": "None"}, "classifier must be of type str, got None"),
    (IMAGES, "digits", {"precision": "None"}, "precision must be of type str, got None"),
    (IMAGES, "digits", {"images": ""}, "no folder of images|n_per_class|holds"),
    (IMAGES, "digits", {"classifier": "nowhere"}, "nowhere|torchvision"),
    (IMAGES, "digits", {"classifier": "fashion-mnist-classifier"}, "was not trained on digits"),
    (IMAGES, "digits", {"classifier": "rhm-cnn"}, "rhm-cnn was not trained on digits"),
    (IMAGES, "digits", {"model_flags": "{'a': 1}"}, "model_flags .* has no effect with digits"),
    (IMAGES, "digits", {"classifier_weights": "5"}, "classifier_weights must be of type"),
    (IMAGES, "digits", {"classifier_weights": "a.pth"}, "classifier_weights 'a.pth' has no effect"),
    (IMAGES, "flat-digits", {"model_flags": "{'a': 1}"}, "has no effect with flat-mixture"),
    (IMAGES, "flat-digits", {"batch_size": "3"}, "batch_size 3 has no effect with flat-mixture"),
    (IMAGES, "flat-digits", {"precision": "bfloat16"}, "has no effect with flat-mixture"),
    (IMAGES, "flat-digits", {"num_inference_steps": "7"}, "has no effect with flat-mixture"),
    (IMAGES, "flat-digits", {"compile": "True"}, "has no effect with flat-mixture"),
    (FIELDS, "digits", {"n_times": "1001"}, "n_times must be at most 1000"),
    (FIELDS, "digits", {"patch_size": "4"}, "layer 'stages.1' beside a grid of patches must be"),
    (FIELDS, "digits", {"threshold": "1.5"}, "threshold must be between 0 and 1"),
    (FIELDS, "digits", {"threshold": "nan"}, "threshold .* of type float"),
    (TREE, "tree", {"depths": "[3, 0]"}, "the smallest of depths must be at least 1, got 0"),
    (TREE, "tree", {"depths": "[]"}, "the smallest of depths"),
    (TREE, "tree", {"L": "0"}, "L must be at least 1, got 0"),
    (TREE, "tree", {"seed": TOO_LARGE}, "seed must be at most"),
    (TREE, "tree", {"m": "32"}, "no transition"),
    ("probe-curves", "tree", {"noise": "[0.5, 0.5]"}, "noise must increase, 1 or more"),
    ("probe-curves", "tree", {"noise": "[0.5, 1.5]"}, "noise must be a number, 0 to 1, got"),
    ("probe-curves", "tree", {"networks": "['rhm-cnnn']"}, "did you mean 'rhm-cnn'"),
    ("probe-curves", "tree", {"networks": "['rhm-cnn', 'flat-cnn']"}, "same number of layers"),
    ("probe-curves", "tree", {"seed": TOO_LARGE}, "seed must be at most"),
    ("learned-denoisers", "tree", {"last_time": "1001"}, "last_time must be at most 1000"),
    ("learned-denoisers", "tree", {"n_times": "362"}, "n_times must be at most 361, got 362"),
    ("learned-denoisers", "tree", {"n_loss_times": "1001"}, "n_loss_times must be at most 1000"),
    ("learned-denoisers", "tree", {"num_inference_steps": "1001"}, "must be at most 1000"),
    ("learned-denoisers", "tree", {"num_inference_steps": "19"}, "must be at least 20, got 19"),
    ("learned-denoisers", "tree", {"sizes": "{'cnn': [[8]]}"}, "unknown value of sizes"),
]  # fmt: skip


@pytest.fixture
def no_work(monkeypatch):
    """Preparation and measurement would fail the test."""

    def work(*arguments):
        pytest.fail("work has begun")

    for name in ("run_preparation", "run_shard"):
        monkeypatch.setattr(shards, name, work)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("name", "preset", "values", "message"), WRONG, ids=str)
def test_wrong_parameters_are_refused_before_any_work(
    name, preset, values, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = [word for pair in values.items() for word in ("-p", *pair)]
    assert main(["sweep", name, "--preset", preset, *words, "--output", "out"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.startswith("hierphase: error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    # the same from a chapter
    defaults = registry.all_parameters(name, preset)
    parsed = {key: parse_value(text, defaults[key]) for key, text in values.items()}
    with pytest.raises((ValueError, FileNotFoundError, ImportError), match=message):
        registry.result(name, preset, parsed, recompute=True, output="out")


UNFIT = {
    "channels": (ConvClassifier(3, 10, (8,)), "cannot (see|take) images"),
    "classes": (ConvClassifier(1, 7, (8,)), "it has 7, "),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("classifier", "message"), UNFIT.values(), ids=UNFIT)
def test_classifiers_that_do_not_fit_the_images_are_refused(tmp_path, classifier, message):
    classifier.save_pretrained(tmp_path / "classifier")
    changes = {"classifier": str(tmp_path / "classifier"), "layers": ["stages.0", "logits"]}
    with pytest.raises(ValueError, match=message):
        registry.run_sweep(IMAGES, "digits", changes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_integer_and_text_of_every_preset_is_held_to_its_type():
    for experiments in registry.EXPERIMENTS.values():
        for experiment in experiments:
            for parameters in experiment.presets.values():
                for name in parameters:
                    with pytest.raises(ValueError, match=name):
                        experiment(parameters | {name: 1j})


def test_what_a_classifier_gives_is_checked(tmp_path, monkeypatch):
    """A network whose weights are finite and whose output is not, in one of four images."""
    path = shutil.copytree(model_directory("digits-classifier"), tmp_path / "classifier")
    small = {"n_per_class": 1, "n_times": 1, "num_inference_steps": 2, "batch_size": 4}
    forward = ConvClassifier.forward

    def overflowing(self, x):
        logits = forward(self, x)
        return (
            logits
            if len(x) == 1
            else torch.where(logits.argmax(1)[:, None] == 7, torch.inf, logits)
        )

    monkeypatch.setattr(images.classifiers.ConvClassifier, "forward", overflowing)
    with pytest.raises(
        Exception, match=r"probability.* is nan at .*'image': \d.*precision float32"
    ):
        registry.run_sweep(IMAGES, "digits", {"classifier": str(path), **small}, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.nc"))


class Padded(Experiment):
    presets = {"few": {"n": 3}}
    padded = ("covariance",)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_only_declared_padding_may_be_nan(value):

    mean = [[0.0, 1.0], [2.0, value]]
    at = {"time": [0.0, 0.5], "image": [4, 5]}
    good = xr.Dataset({"covariance": (("time", "image"), mean), "n": 3}, at)
    Padded.check_finite(good, {})
    bad = good.assign(mean=(("time", "image"), mean))
    message = rf"mean is {value} at .*'time': 0.5, 'image': 5.*, with precision float16"
    with pytest.raises(ValueError, match=message):
        Padded.check_finite(bad, {"precision": "float16"})
