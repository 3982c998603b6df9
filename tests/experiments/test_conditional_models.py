"""Denoisers that are told a class or a text, or see latents, as worlds of the image experiment."""

import adm_reference
import pytest
import stand_ins
import torch
from diffusers import DDPMScheduler, PNDMScheduler

from hierphase.__main__ import main
from hierphase.diffusion.forward_backward import ForwardBackwardPipeline
from hierphase.diffusion.guided_diffusion import load_adm, no_text
from hierphase.diffusion.labels import told_classes
from hierphase.diffusion.model_folders import load_denoiser
from hierphase.experiments import registry
from hierphase.experiments.images import ImageExperiment
from hierphase.runs import results

NAMES = ["n01443537", "n01484850", "n02085620"]  # of ImageNet, 1, 2 and 151
LEVELS = [torch.inf, 0.0, -torch.inf]
pytestmark = pytest.mark.filterwarnings("ignore:.* changes the variance of Gaussian data")


def transformer(folder):
    stand_ins.classes_and_latents().save_pretrained(folder)


def text(folder):
    scheduler = PNDMScheduler.from_config(stand_ins.STABLE | {"skip_prk_steps": True})
    stand_ins.text_and_latents(folder, scheduler)


def pixels(folder):
    stand_ins.pixels().save_pretrained(folder)


def latents(folder):
    stand_ins.latents().save_pretrained(folder)


def classes(folder):
    stand_ins.classes(folder, 4, NAMES)


#: guided-diffusion's 128 and 512 models in all but the sizes.
UNEQUAL = {
    "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2, 3],
    "attention_resolutions": [4, 2], "num_heads": 4,
}  # fmt: skip
NARROW = UNEQUAL | {"num_channels": 64, "channel_mult": [0.5, 1], "attention_resolutions": [4]}


def unequal(path):
    torch.save(adm_reference.case(UNEQUAL, class_cond=True)[0], path)


def narrow(path):
    torch.save(adm_reference.case(NARROW, class_cond=True)[0], path)


def parameters(folder, model, names=NAMES, **changes):
    model(folder / "model")
    small = stand_ins.images(folder, names) | changes
    return registry.all_parameters("imagenet-transition", "imagenet", small)


def round_trips(values):
    experiment = ImageExperiment(values)
    experiment.check()
    rows = range(len(experiment))
    starts, generators = experiment.world.starts(rows), experiment.generators(rows)
    return starts, experiment.world.denoised(starts, LEVELS, generators).samples, experiment


@pytest.mark.parametrize(
    ("model", "sampler"),
    [
        (transformer, "own"), (transformer, "sde-dpm++-2m-karras"), (text, "own"),
        (text, "sde-dpm++-2m-karras"), (pixels, "own"), (latents, "ddpm"), (classes, "own"),
    ],
)  # fmt: skip
def test_a_folder_is_swept_by_one_command(model, sampler, tmp_path):
    values = parameters(tmp_path, model, sampler=sampler)
    words = ["sweep", "imagenet-transition", "--preset", "imagenet", "--output"]
    words += [str(tmp_path / "out")]
    for name, value in values.items():
        words += ["-p", name, str(value)]
    assert main(words) == 0
    result = results.load("imagenet-transition", "imagenet", values, tmp_path / "out")
    assert result.sizes["image"] == 6 and result.similarity.notnull().all()
    side = 8 if model in (pixels, classes) else 16
    assert result.sizes["row"] == result.sizes["column"] == side
    same = (result.similarity.isel(time=0) > 0.999).all()
    assert same == (side == 8)  # an autoencoder of random weights loses everything


@pytest.mark.parametrize(("model", "flags"), [(unequal, UNEQUAL), (narrow, NARROW)])
def test_a_checkpoint_is_told_the_class_too(model, flags, tmp_path):
    values, found = parameters(tmp_path, model), {}
    for label in ("kept", "swapped"):
        told = {"model_flags": flags | {"class_cond": True, "label": label}}
        x_0, found[label], experiment = round_trips(values | told)
    assert torch.equal(found["kept"][0], x_0[0])
    assert (found["kept"] - found["swapped"])[1:].abs().amax((2, 3, 4)).min() > 1e-3
    unet, scheduler = load_adm(tmp_path / "model", **flags, class_cond=True)
    expected = ForwardBackwardPipeline(unet, scheduler)(
        x_0[0], ln_snr=LEVELS, num_inference_steps=20, batch_size=8,
        generator=experiment.generators(range(6)),
        conditions=no_text(unet) | {"class_labels": torch.tensor([2, 151, 1])[x_0[1]]},
    )  # fmt: skip
    assert torch.equal(expected.samples, found["swapped"])
    with pytest.raises(ValueError, match="classes 0 to 999 and none for no class"):
        round_trips(values | {"model_flags": flags | {"class_cond": True}})


@pytest.mark.parametrize("model", [transformer, text, latents])
def test_without_noise_there_is_what_the_autoencoder_loses(model, tmp_path):
    (x_0, _), samples, _ = round_trips(parameters(tmp_path, model))
    space = load_denoiser(tmp_path / "model").space
    assert torch.equal(samples[0], space.decode(space.encode(x_0)))
    assert samples.shape == (3, 6, 3, 16, 16)


@pytest.mark.parametrize(
    ("label", "told"),
    [(None, [1000] * 3), ("dropped", [1000] * 3), ("kept", [1, 2, 151]), ("swapped", [2, 151, 1])],
)
def test_a_transformer_is_told_the_class_that_was_asked_for(label, told, tmp_path):
    flags = {} if label is None else {"label": label}
    (x_0, labels), samples, experiment = round_trips(
        parameters(tmp_path, transformer, model_flags=flags)
    )
    model, scheduler, _, space = load_denoiser(tmp_path / "model")
    expected = ForwardBackwardPipeline(model, scheduler)(
        space.encode(x_0), ln_snr=LEVELS, num_inference_steps=20, batch_size=8,
        generator=experiment.generators(range(6)),
        conditions={"class_labels": torch.tensor(told)[labels]},
    )  # fmt: skip
    assert torch.equal(space.decode(expected.samples), samples)


def test_what_is_told_counts_and_each_row_keeps_its_own(tmp_path):
    found = {}
    values = parameters(tmp_path, classes)
    for label in ("dropped", "kept", "swapped"):
        found[label] = round_trips(values | {"model_flags": {"label": label}})[1]
        assert torch.equal(found[label][0], found["dropped"][0])
    for one, other in (("dropped", "kept"), ("kept", "swapped"), ("swapped", "dropped")):
        assert (found[one] - found[other])[1:].abs().amax((2, 3, 4)).min() > 1e-2
    few = values | {"model_flags": {"label": "kept"}, "batch_size": 5}
    torch.testing.assert_close(round_trips(few)[1], found["kept"], rtol=0, atol=1e-4)


def test_key_has_all_files_that_numbers_depend_on(tmp_path):
    files = ImageExperiment(parameters(tmp_path, text)).files()["model"]
    weights = "diffusion_pytorch_model.safetensors"
    assert {"unet/conditions.safetensors", f"vae/{weights}", f"unet/{weights}"} < files.keys()


def without_a_prompt(folder):
    text(folder)
    (folder / "unet/conditions.safetensors").unlink()


def other_latents(folder):
    text(folder)
    stand_ins.autoencoder(type(load_denoiser(folder).space.vae), 3).save_pretrained(folder / "vae")


def of_imagenet(folder):
    stand_ins.classes(folder, 1000)


def unnamed(folder):
    stand_ins.classes(folder, 4)


def in_half(folder):
    classes(folder)
    (folder / "unet/config.json").write_text("{")


REFUSED = {
    "no prompt": (without_a_prompt, {}, NAMES, r"conditions.safetensors: .*encoder_hidden_st"),
    "latents": (other_latents, {}, NAMES, "UNet2DConditionModel is no model.*to have 4 channels"),
    "no class for none": (of_imagenet, {}, NAMES, "classes 0 to 999 and none for no class: take"),
    "unnamed": (unnamed, {}, NAMES, "classes 0 to 3, which are not .*list class_names in its con"),
    "unknown label": (classes, {"label": "lost"}, NAMES, "unknown label .* 'lost'; known: dropp"),
    "label of none": (pixels, {"label": "kept"}, NAMES, "with 0 classes 'kept'; known: dropped"),
    "other flags": (classes, {"image_size": 8}, NAMES, r"model_flags \{'image_size': 8\} has no"),
    "other names": (classes, {"label": "kept"}, ["a", "b", "c"], "are not each one class of the"),
    "one class": (classes, {"label": "swapped"}, NAMES[:1], "images of two classes, got .'n0144"),
    "damaged": (in_half, {}, NAMES, r"unet/config.json: Expecting"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "flags", "names", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_in_words_before_any_work(model, flags, names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ImageExperiment(parameters(tmp_path, model, names, model_flags=flags)).check()


def test_a_condition_needs_a_row_for_each_image():
    pipeline = ForwardBackwardPipeline(stand_ins.unet(num_class_embeds=4), DDPMScheduler())
    with pytest.raises(ValueError, match="condition class_labels needs 3 rows, or 1, got 2"):
        pipeline(torch.zeros(3, 3, 8, 8), [100], conditions={"class_labels": [0, 1]})


def test_images_of_no_class_are_told_that():
    model = stand_ins.unet(num_class_embeds=4)
    model.register_to_config(class_names=NAMES)
    for label, told in (("kept", [1, 3]), ("swapped", [3, 1]), ("dropped", [3, 3])):
        assert told_classes([NAMES[1], ""], model, label)["class_labels"].tolist() == told
    model.register_to_config(class_names=[*NAMES, "fourth"])
    with pytest.raises(ValueError, match="classes 0 to 3 and none for no class: take label 'kept'"):
        told_classes([NAMES[1], ""], model, "kept")
