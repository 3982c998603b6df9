import numpy as np
import pytest
import small_imagenet
import torch
from diffusers import UNet2DModel
from PIL import Image

from hierphase.__main__ import main
from hierphase.analysis.representations import activations
from hierphase.diffusion.datasets import digits
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.diffusion.image_folder import image_folder
from hierphase.experiments import registry, worlds
from hierphase.experiments.images import PRESETS, ImageExperiment
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import ConvClassifier, class_probabilities
from hierphase.runs import results


def preset_parameters(preset, **changes):
    """Parameters of a preset of the chapter, with changes."""
    return registry.all_parameters("imagenet-transition", preset, changes)


SMALL = {"n_per_class": 2, "n_times": 3, "num_inference_steps": 24, "n_shown": 5}


def measured(preset):
    """(experiment, prepared, measured) on 20 digits, or on 20 images of their flat mixture."""
    experiment = ImageExperiment(preset_parameters(preset, **SMALL))
    prepared = experiment.prepare()
    return experiment, prepared, experiment.measure(0, 20, prepared)


@pytest.fixture(scope="module")
def small():
    return measured("digits")


@pytest.fixture(scope="module")
def small_flat():
    return measured("flat-digits")


def test_starting_images_are_balanced_and_stay_the_same_when_more_are_taken(small):
    experiment, _, _ = small
    assert len(experiment) == 20
    assert experiment.world.labels.tolist() == [*range(10)] * 2
    held_out = digits()
    threes = held_out.test_images[held_out.test_labels == 3]
    assert torch.equal(experiment.world.starts(range(13, 14))[0][0], threes[1])
    more = ImageExperiment(preset_parameters("digits", **SMALL | {"n_per_class": 4}))
    assert torch.equal(*(e.world.starts(range(20))[0] for e in (more, experiment)))


@pytest.mark.parametrize("world", ["small", "small_flat"])
def test_shards_give_the_bits_of_the_whole(world, request):
    experiment, prepared, whole = request.getfixturevalue(world)
    parts = [experiment.measure(*bounds, prepared) for bounds in ((0, 3), (3, 12), (12, 20))]
    assert [part.sizes["shown"] for part in parts] == [3, 2, 0]
    for name, variable in whole.items():
        axis = variable.dims.index("image" if "image" in variable.dims else "shown")
        together = np.concatenate([part[name].values for part in parts], axis=axis)
        assert np.array_equal(together, variable.values), name


def test_what_is_measured_follows_from_the_pixels(small):
    experiment, prepared, measured = small
    x0 = experiment.world.starts(range(5))[0]
    assert np.array_equal(measured.pixels[0].values, ((x0 + 1) * 127.5).round().byte().numpy())
    assert measured.time.values == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=0.03)  # nearest steps
    alpha_bar = experiment.world.scheduler.alphas_cumprod
    of_time = np.interp(measured.time[1:3] * 1000, np.arange(1000), alpha_bar)
    expected = torch.from_numpy(measured.ln_snr.values[1:3]).sigmoid()
    np.testing.assert_allclose(of_time, expected, rtol=1e-3)
    assert measured.ln_snr[0] == np.inf and measured.ln_snr[3] == -np.inf
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
            (
                (activations(classifier, images, ["stages.0"])["stages.0"] - mean.view(-1, 1, 1))
                / scale.view(-1, 1, 1)
            ).flatten(1)
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


def test_flat_mixture_is_the_same_experiment_with_images_of_its_own(small, small_flat):
    _, _, real = small
    experiment, prepared, flat = small_flat
    assert {*flat, "explained"} == {*real, "true_class"}
    real = real.drop_vars("explained")
    assert {name: flat[name].dims for name in real} == {name: real[name].dims for name in real}
    assert flat.label.equals(real.label)
    np.testing.assert_allclose(flat.time, [0, 0.333, 0.667, 1], atol=1e-6)  # any level is exact
    x0, (samples, *_) = experiment.round_trips(0, 20, [0])
    assert torch.equal(samples[0], x0)
    assert not np.array_equal(flat.pixels[0], real.pixels[0])
    np.testing.assert_allclose(prepared.mean_image, x0.double().mean(dim=0), atol=1e-6)
    assert np.array_equal(flat.true_class[0], flat.label)
    assert (flat.true_class[3] != flat.label).mean() > 0.7  # T forgets the class
    barely = experiment.round_trips(0, 20, [1])[1].samples - x0  # noise of variance 3e-4
    assert 0.2 < barely.var() / 3e-4 < 1.5
    assert (flat.true_class == flat.top_class[..., 0]).mean() > 0.9  # the classifier sees it too
    again = experiment.round_trips(0, 2, [500, 500])[1].samples  # each another draw
    assert not torch.equal(again[0], again[1])


def test_seed_changes_the_noise_and_nothing_else(small):
    _, _, whole = small
    other = ImageExperiment(preset_parameters("digits", **SMALL | {"seed": 1}))
    measured = other.measure(0, 5, other.prepare())
    assert np.array_equal(measured.pixels[0], whole.pixels[0])
    assert not np.array_equal(measured.pixels[1], whole.pixels[1])


def test_imagenet_preset_end_to_end_on_a_small_random_adm(tmp_path, capsys):
    """The command of the chapter, with guided-diffusion's file format and a folder of JPEGs."""
    values = small_imagenet.parameters(tmp_path)
    (tmp_path / "val" / "n01440764" / "0.JPEG").write_bytes(b"no image")
    command = small_imagenet.sweep(values)
    with pytest.warns(UserWarning, match=r"1 files .* n01440764/0.JPEG"):
        assert main([*command, "--output", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out").glob("*.nc")
    assert str(path) in capsys.readouterr().out
    values |= {name: str(values[name]) for name in ("images", "model", "classifier")}
    lists = {"channel_mult": [1, 2], "attention_resolutions": [16]}
    values["model_flags"] = values["model_flags"] | lists
    result = results.load(
        "imagenet-transition", "imagenet", preset_parameters("imagenet", **values), path.parent
    )
    assert result.sizes["image"] == 4 and result.sizes["time"] == 5
    assert result.label.values.tolist() == [2, 0, 2, 0]  # by name, not by place
    assert result.class_name.values.tolist() == [*small_imagenet.NAMES, "3", "4", "5", "6"]
    assert result.pixels.shape == (5, 1, 3, 32, 32)
    with pytest.warns(UserWarning, match="1 files"):
        folder = image_folder(tmp_path / "val", 2, 32)
    expected = ((folder.load([0])[0] + 1) * 127.5).round().byte().numpy()
    assert np.array_equal(result.pixels[0, 0], expected)
    assert result.similarity.notnull().all()
    assert (result.similarity.sel(time=0) > 0.999).all()
    assert (result.similarity.sel(time=1, layer="stages.0") < 0.9).all()


def test_a_denoiser_that_sees_squares_of_pixels_as_one(tmp_path):
    """CIFAR-10's at 8x8, on colour gradients: the network sees 12 channels of 4x4."""
    ramp = np.linspace(0, 255, 8)
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[::-1], 60 + 90 * i), axis=-1)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / "one.png")
    model = model_directory("cifar10-8")
    values = {"images": str(tmp_path), "model": str(model), "n_per_class": 1}
    values["num_inference_steps"] = 20
    experiment = ImageExperiment(preset_parameters("cifar10-8", **values))
    experiment.check()
    (x_0, _), levels = experiment.world.starts(range(2)), [np.inf, 3.0, -1.0]
    assert x_0.shape == (2, 3, 8, 8)
    found = experiment.world.denoised([x_0], levels, experiment.generators(range(2)))
    assert torch.equal(found.samples[0], x_0)

    network = UNet2DModel.from_pretrained(model / "unet").float()  # pixels put by hand
    kind, options = worlds.SAMPLERS["sde-dpm++-2m-karras"]
    pipeline = ForwardBackwardPipeline(
        network, kind.from_config(worlds.ddpm_scheduler().config, **options)
    )
    patches = torch.stack([x_0[:, c, a::2, b::2] for c in range(3) for a in (0, 1) for b in (0, 1)])
    generators = experiment.generators(range(2))
    expected = pipeline(patches.transpose(0, 1), None, 20, generators, ln_snr=levels).samples
    for k in range(12):
        c, a, b = k // 4, k // 2 % 2, k % 2
        assert torch.equal(found.samples[:, :, c, a::2, b::2], expected[:, :, k])

    values |= {"images": "digits", "classifier": str(model_directory("digits-classifier"))}
    with pytest.raises(ValueError, match=r"images digits for .*\(1, 12, 4, 4\)"):
        ImageExperiment(preset_parameters("cifar10-8", **values)).check()


def test_photographs_are_denoised_by_what_sees_squares(published):
    small = SMALL | {"num_inference_steps": 50}
    experiment = ImageExperiment(preset_parameters("cifar10-8", **small))
    x_0, _ = published(lambda: experiment.world).starts(range(20))
    found = experiment.world.denoised([x_0], [3.0, 1.0], experiment.generators(range(20)))
    error = (found.samples - x_0).square().mean((1, 2, 3, 4)) * found.ln_snr.exp()
    assert ((error > 0.1) & (error < torch.tensor([0.7, 0.35]))).all()  # shares of the noise


def test_presets_are_complete_and_errors_repeat_the_value():
    assert {tuple(sorted(p)) for p in PRESETS.values()} == {tuple(sorted(PRESETS["digits"]))}
    assert preset_parameters("digits", seed=3) == PRESETS["digits"] | {"seed": 3}
    with pytest.raises(ValueError, match=r"'digit' \(did you mean 'digits'"):
        preset_parameters("digit")
    with pytest.raises(ValueError, match=r"'n_perclass' \(did you mean 'n_per_class'"):
        preset_parameters("digits", n_perclass=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_per_class": 0}, "n_per_class must be at least 1, got 0"),
        ({"n_per_class": 46}, "n_per_class must be at most 4[0-9], got 46"),
        ({"n_times": 2.5}, "parameter n_times .* 2.5 is of type float"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        (
            {"precision": "fp8"},
            "unknown value of precision 'fp8'.*known: float32, bfloat16, float16",
        ),
        ({"layers": ["logits"]}, r"layers must .* two, each once, got \['logits'\]"),
        (
            {"model": "flat-mixture", "images": "val"},
            r"unknown images of a flat mixture 'val'.*digits, fashion-mnist",
        ),
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
    with pytest.raises(FileNotFoundError, match="no denoiser 'nowhere': give the parameter model"):
        ImageExperiment(preset_parameters("digits", model="nowhere")).times()
