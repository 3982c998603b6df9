import numpy as np
import pytest
import torch
from PIL import Image

from hierphase import adm, image_experiment
from hierphase.classifiers import ConvClassifier, class_probabilities
from hierphase.datasets import digits
from hierphase.image_experiment import PRESETS, ImageExperiment, preset_parameters
from hierphase.probes import activations
from hierphase.training import model_directory

SMALL = {"n_per_class": 2, "n_times": 3, "num_inference_steps": 6, "n_shown": 5}


@pytest.fixture(scope="module")
def small():
    """(experiment, prepared, measured) on 20 digits."""
    experiment = ImageExperiment(preset_parameters("digits", **SMALL))
    prepared = experiment.prepare()
    return experiment, prepared, experiment.measure(0, 20, prepared)


def test_starting_images_are_balanced_and_stay_the_same_when_more_are_taken(small):
    experiment, _, _ = small
    assert len(experiment) == 20
    assert experiment.labels.tolist() == [*range(10)] * 2
    held_out = digits()
    threes = held_out.test_images[held_out.test_labels == 3]
    assert torch.equal(experiment.images(13, 14)[0], threes[1])
    more = ImageExperiment(preset_parameters("digits", **SMALL | {"n_per_class": 4}))
    assert torch.equal(more.images(0, 20), experiment.images(0, 20))


def test_shards_give_the_bits_of_the_whole(small):
    experiment, prepared, whole = small
    parts = [experiment.measure(*bounds, prepared) for bounds in ((0, 3), (3, 12), (12, 20))]
    assert [part.sizes["shown"] for part in parts] == [3, 2, 0]
    for name, variable in whole.items():
        axis = variable.dims.index("image" if "image" in variable.dims else "shown")
        together = np.concatenate([part[name].values for part in parts], axis=axis)
        assert np.array_equal(together, variable.values), name


def test_what_is_measured_follows_from_the_pixels(small):
    experiment, prepared, measured = small
    x0 = experiment.images(0, 5)
    assert np.array_equal(
        measured.pixels[0].values, ((x0 + 1) * 127.5).round().byte().numpy()
    )
    assert measured.time.values == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-3)
    back = torch.from_numpy(measured.pixels.values[2]).float() / 127.5 - 1  # rounded
    classifier = ConvClassifier.from_pretrained(model_directory("digits-classifier"))
    probability = class_probabilities(classifier, back).numpy()
    top = measured.top_class[2, :5, 0].values
    assert np.array_equal(probability.argmax(axis=1), top)
    first = measured.top_class[0, :5, 0].values
    np.testing.assert_allclose(
        measured.class_probability[2, :5], probability[np.arange(5), first], atol=0.02
    )
    assert (measured.top_probability.sum("rank") <= 1 + 1e-6).all()
    assert (np.diff(measured.top_probability.values, axis=2) <= 0).all()

    held_out = activations(classifier, digits().test_images, ["stages.0"])["stages.0"]
    mean, std = held_out.mean(dim=(0, 2, 3)), held_out.std(dim=(0, 2, 3), correction=0)
    for name, scale in (("similarity", std), ("similarity_uncentred", torch.hypot(mean, std))):
        a, b = (
            ((activations(classifier, images, ["stages.0"])["stages.0"] - mean.view(-1, 1, 1))
             / scale.view(-1, 1, 1)).flatten(1)
            for images in (x0, back)
        )
        expected = torch.cosine_similarity(a, b).numpy()
        found = measured[name].sel(layer="stages.0")[2, :5]
        np.testing.assert_allclose(found, expected, atol=0.01)
    assert (abs(measured.similarity - measured.similarity_uncentred) > 1e-4).any()
    np.testing.assert_allclose(measured.similarity[:, 0], 1, atol=1e-5)
    np.testing.assert_allclose(measured.band_similarity[:, 0], 1, atol=1e-5)
    np.testing.assert_allclose(
        prepared.mean_image[0], digits().test_images.mean(dim=0)[0], atol=1e-5
    )


def test_seed_changes_the_noise_and_nothing_else(small):
    _, _, whole = small
    other = ImageExperiment(preset_parameters("digits", **SMALL | {"seed": 1}))
    measured = other.measure(0, 5, other.prepare())
    assert np.array_equal(measured.pixels[0], whole.pixels[0])
    assert not np.array_equal(measured.pixels[1], whole.pixels[1])


def test_fingerprint_sees_the_weights(small, tmp_path):
    experiment, _, _ = small
    classifier = ConvClassifier.from_pretrained(model_directory("digits-classifier"))
    prints = {experiment.fingerprint()}
    for shift in (0, 1e-3):
        with torch.no_grad():
            classifier.logits.bias += shift
        classifier.save_pretrained(tmp_path)
        changed = experiment.parameters | {"classifier": str(tmp_path)}
        prints.add(ImageExperiment(changed).fingerprint())
    assert len(prints) == 2


@pytest.fixture
def tiny_imagenet(tmp_path):
    """The preset imagenet on a random ADM of the published architecture, scaled down."""
    for synset, shade in (("n01440764", 60), ("n01443537", 160)):
        folder = tmp_path / "val" / synset
        folder.mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng([shade, i]).normal(shade, 30, (70 + i, 90, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.JPEG")
    classifier = ConvClassifier(in_channels=3, n_classes=7, channels=(8, 8))
    classifier.save_pretrained(tmp_path / "classifier")
    return tmp_path


def test_presets_are_complete_and_errors_repeat_the_value():
    assert {tuple(sorted(p)) for p in PRESETS.values()} == {tuple(sorted(PRESETS["digits"]))}
    assert preset_parameters("digits", seed=None)["seed"] == 0
    assert preset_parameters("digits", layers=["stages.0", "logits"]) != PRESETS["digits"]
    with pytest.raises(ValueError, match=r"unknown preset 'digit' \(did you mean 'digits'"):
        preset_parameters("digit")
    with pytest.raises(ValueError, match=r"'n_perclass' \(did you mean 'n_per_class'"):
        preset_parameters("digits", n_perclass=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_per_class": 0}, "n_per_class must be at least 1, got 0"),
        ({"n_per_class": 46}, "n_per_class must be at most 4[0-9], the images of class '[0-9]'"),
        ({"n_times": 2.5}, "n_times must be an integer, got 2.5"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"precision": "fp8"}, "precision must be one of float32, bfloat16, float16, got 'fp8'"),
        ({"layers": ["logits"]}, r"layers must name at least two, got \['logits'\]"),
    ],
)
def test_bad_parameters_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        len(ImageExperiment(preset_parameters("digits", **changes)))


def test_missing_and_unknown_parameters_are_named():
    parameters = preset_parameters("digits")
    parameters["steps"] = parameters.pop("num_inference_steps")
    with pytest.raises(ValueError, match=r"lack \['num_inference_steps'\] .* unknown \['steps'\]"):
        ImageExperiment(parameters)
    with pytest.raises(FileNotFoundError, match="hierphase train nowhere"):
        ImageExperiment(preset_parameters("digits", model="nowhere")).times()
