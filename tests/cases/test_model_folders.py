"""Models from elsewhere: what is broken, or cannot be run, is refused in one line with its file."""

import inspect
import json
import re
import shutil

import adm_reference
import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from hierphase.__main__ import main
from hierphase.diffusion.model_folders import load_model, load_scheduler
from hierphase.networks.catalogue import model_directory
from hierphase.networks.classifiers import ConvClassifier

WEIGHTS, SCHEDULER = "diffusion_pytorch_model.safetensors", "scheduler_config.json"
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def model(tmp_path):
    """A copy of the book's denoiser of digits, to be broken."""
    return shutil.copytree(model_directory("digits"), tmp_path / "model")


@pytest.fixture
def classifier(tmp_path):
    return shutil.copytree(model_directory("digits-classifier"), tmp_path / "classifier")


def with_weights(folder, change):
    state = load_file(folder / WEIGHTS)
    changed = change(state)
    save_file(state if changed is None else changed, folder / WEIGHTS)


def with_settings(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def value(x):
    """Puts a number into one of the weights, as float64, which can hold it."""

    def change(state):
        name = next(name for name in state if name.endswith("weight"))
        state[name] = state[name].double()
        state[name].view(-1)[0] = x

    return change


def kind(dtype):
    return lambda state: {name: tensor.to(dtype) for name, tensor in state.items()}


BAD_WEIGHTS = {
    "NaN": (value(NAN), "not finite in torch.float32"),
    "infinity": (value(-INF), "not finite in torch.float32"),
    "beyond float32": (value(1e300), "not finite in torch.float32"),
    "int8": (kind(torch.int8), "of torch.int8 instead of torch.float32"),
    "int64": (kind(torch.int64), "of torch.int64 instead of torch.float32"),
    "bool": (kind(torch.bool), "of torch.bool instead of torch.float32"),
    "complex": (kind(torch.complex64), "of torch.complex64 instead of torch.float32"),
    "missing": (lambda state: {"a": torch.zeros(1)}, "missing"),
    "one missing": (lambda state: dict(list(state.items())[1:]), "1 missing"),
    "extra": (lambda state: state | {"ema": torch.zeros(3)}, r"1 unexpected \(ema\)"),
    "shape": (
        lambda state: {name: x.flatten()[:1] for name, x in state.items()},
        r"of another shape \(.*: \(1,\) instead of",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_that_a_model_cannot_use_are_refused(model, classifier, change, message):
    for folder, base in ((model / "unet", diffusers.ModelMixin), (classifier, ConvClassifier)):
        with_weights(folder, change)
        with pytest.raises(ValueError, match=rf"{WEIGHTS}: not the weights of .*{message}"):
            load_model(folder, base)


def test_weights_are_of_one_model(model):
    """The whole file is the model, whatever lies beside it; parts hold each weight once."""
    folder = model / "unet"
    state, first = load_file(folder / WEIGHTS), next(iter(load_file(folder / WEIGHTS)))
    other = {name: torch.zeros_like(x) for name, x in state.items()}
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model_old.bin"):
        save_file(other, folder / name)
    loaded = load_model(folder, diffusers.ModelMixin).state_dict()
    assert all(torch.equal(loaded[name], x) for name, x in state.items())
    part = folder / "diffusion_pytorch_model-00001-of-00002.safetensors"
    (folder / WEIGHTS).rename(part)
    with pytest.raises(ValueError, match=rf"{part.name}, .*fp16.safetensors hold the same"):
        load_model(folder, diffusers.ModelMixin)
    (folder / "diffusion_pytorch_model.fp16.safetensors").unlink()
    save_file({first: state.pop(first)}, folder / part.name.replace("00001", "00002", 1))
    save_file(state, part)
    loaded = load_model(folder, diffusers.ModelMixin).state_dict()
    assert all(torch.equal(loaded[name], x) for name, x in state.items())


@pytest.mark.parametrize(("change", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_so_are_those_of_guided_diffusion(tmp_path, capsys, change, message):
    flags = {
        "image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2),
        "attention_resolutions": (8,), "num_head_channels": 16,
    }  # fmt: skip
    weights = adm_reference.Weights(torch.Generator().manual_seed(0))
    adm_reference.forward(weights, torch.zeros(1, 3, 16, 16), torch.zeros(1), None, **flags)
    state = dict(weights)
    torch.save(change(state) or state, tmp_path / "adm.pt")
    words = [w for name, flag in flags.items() for w in ("-p", name, str(flag).strip("(,)"))]
    assert main(["convert-adm", str(tmp_path / "adm.pt"), str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert re.search(rf"adm.pt: .*{message}", error) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", [WEIGHTS, "diffusion_pytorch_model.bin", "in two"])
def test_weights_of_any_width_and_file_are_the_model(model, dtype, name):
    folder = model / "unet"
    state = {key: x.to(dtype) for key, x in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    if name == "in two":
        for i, part in enumerate((list(state)[:9], list(state)[9:])):
            file = folder / f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
            save_file({key: state[key] for key in part}, file)
    elif name == WEIGHTS:
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    loaded = load_model(folder, diffusers.ModelMixin)
    assert isinstance(loaded, diffusers.UNet2DModel) and not loaded.training
    assert {key: x.dtype for key, x in loaded.state_dict().items()} == dict.fromkeys(
        state, torch.float32
    )
    assert all(torch.equal(x, state[key].float()) for key, x in loaded.state_dict().items())


def damaged(content):
    return lambda path: path.write_bytes(content)


SETTINGS = {
    "absent": (lambda path: path.unlink(), "No such file"),
    "empty": (damaged(b""), "Expecting value"),
    "cut short": (damaged(b'{"_class_name": "UNet'), "Unterminated string"),
    "binary": (damaged(b"\xff\xfe\x00"), "."),
    "a list": (damaged(b"[1, 2]"), "."),
    "null": (damaged(b"null"), "."),
    "no class": (damaged(b"{}"), "_class_name 'None' is no "),
}


@pytest.mark.parametrize(("damage", "message"), SETTINGS.values(), ids=SETTINGS)
def test_damaged_settings_are_named(model, classifier, damage, message):
    for path in (model / "unet/config.json", model / "scheduler" / SCHEDULER):
        damage(path)
    damage(classifier / "config.json")
    with pytest.raises(ValueError, match=f"unet/config.json: .*{message}"):
        load_model(model / "unet", diffusers.ModelMixin)
    with pytest.raises(ValueError, match=f"{SCHEDULER}: .*{message}"):
        load_scheduler(model / "scheduler")
    with pytest.raises(ValueError, match=f"classifier/config.json: .*{message}"):
        load_model(classifier, ConvClassifier)


@pytest.mark.parametrize(
    "name", ["ConvClassifier", "DDPMScheduler", "os", "UNet3DModel", "__doc__"]
)
def test_classes_that_are_no_models_are_refused(model, classifier, name):
    with_settings(model / "unet/config.json", _class_name=name)
    with pytest.raises(ValueError, match=f"'{name}' is no ModelMixin"):
        load_model(model / "unet", diffusers.ModelMixin)
    with_settings(classifier / "config.json", _class_name="UNet2DModel")
    with pytest.raises(ValueError, match="'UNet2DModel' is no ConvClassifier"):
        load_model(classifier, ConvClassifier)


BAD_NOISE = [
    ({"beta_end": 5.0}, "betas must be 1000 numbers"),
    ({"beta_end": NAN}, "beta_end .* cannot be nan"),
    ({"beta_end": INF}, "beta_end .* cannot be inf"),
    ({"beta_start": -0.01}, "betas must be"),
    ({"beta_start": 0.0, "beta_end": 0.0}, "betas must be"),
    ({"trained_betas": [0.1, 0.2]}, "betas must be 1000 numbers .* got 2"),
    ({"trained_betas": [0.01] * 999 + [NAN]}, "betas .* cannot be nan"),
    ({"trained_betas": [0.01] * 999 + [-0.5]}, "betas must be"),
    ({"trained_betas": "all"}, "."),
    ({"num_train_timesteps": "1000"}, "num_train_timesteps .* of type int .*'1000' is of type str"),
    ({"num_train_timesteps": 1000.5}, "num_train_timesteps .* 1000.5 is of type float"),
    ({"num_train_timesteps": 0}, "."),
    ({"num_train_timesteps": -5}, "."),
    ({"beta_schedule": "quadratic"}, "quadratic"),
    ({"beta_end": "0.02"}, "beta_end .* '0.02' is of type str"),
    ({"clip_sample": "yes"}, "clip_sample .* 'yes' is of type str"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy
@pytest.mark.parametrize(("changes", "message"), BAD_NOISE, ids=str)
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
def test_noise_that_does_not_rise_and_values_of_other_types_are_refused(
    model, changes, message, name
):
    path = model / "scheduler" / SCHEDULER
    with_settings(path, _class_name=name, **changes)
    if name == "EulerDiscreteScheduler" and "clip_sample" in changes:
        return  # it has none
    with pytest.raises(ValueError, match=f"{SCHEDULER}: .*{message}"):
        load_scheduler(path.parent)


def _schedulers():
    """Names of the schedulers that need no arguments, as those of discrete tokens do."""
    for name in dir(diffusers):
        found = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
        if isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin):
            parameters = [*inspect.signature(found).parameters.values()]
            if all(parameter.default is not parameter.empty for parameter in parameters):
                yield name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [*_schedulers()])
def test_the_scheduler_that_a_folder_names_is_what_is_loaded(tmp_path, name):
    scheduler = getattr(diffusers, name)()
    scheduler.save_pretrained(tmp_path)
    loaded = load_scheduler(tmp_path)
    assert type(loaded) is type(scheduler)
    ours = {key: value for key, value in scheduler.config.items() if key[0] != "_"}
    assert {key: loaded.config[key] for key in ours} == ours


def sweep(tmp_path, capsys, **values):
    """The message of a sweep that is refused: one line, before anything is written."""
    words = [word for name, value in values.items() for word in ("-p", name, str(value))]
    command = ["sweep", "imagenet-transition", "--preset", "digits", "--output"]
    assert main([*command, str(tmp_path / "out"), *words]) == 2
    assert not (tmp_path / "out").exists()
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("hierphase: error: ")
    return message


NO_MODELS = {
    "/dev/null": "no denoiser '/dev/null'",
    "": "no denoiser ''",
    "nowhere/at/all": "no denoiser 'nowhere/at/all'",
    ".": "config.json: ",
    "digits-classifier": "digits-classifier/config.json: _class_name 'ConvClassifier' is no",
    "rhm-unet-64": "rhm-unet-64 was not trained on digits",
    "fashion-mnist": "fashion-mnist was not trained on digits",
    "cifar10-8": "cifar10-8 was not trained on digits",
    "None": "model must be of type str, got None",
}


@pytest.mark.parametrize(("name", "message"), NO_MODELS.items())
def test_what_is_no_denoiser_is_refused_and_the_hub_is_not_asked(
    tmp_path, capsys, monkeypatch, name, message
):
    monkeypatch.chdir(tmp_path)
    assert message in sweep(tmp_path, capsys, model=name)


def other_class(model):
    shutil.rmtree(model / "unet")
    diffusers.AutoencoderKL(
        1, 1, sample_size=8, norm_num_groups=1, block_out_channels=(4,)
    ).save_pretrained(model / "unet")


def of_classes(model):
    shutil.rmtree(model / "unet")
    classes = {"num_class_embeds": 10, "sample_size": 8, "in_channels": 1, "out_channels": 1}
    small = {"block_out_channels": (8,), "norm_num_groups": 8, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    diffusers.UNet2DModel(**classes, **small, **blocks).save_pretrained(model / "unet")


def too_wide(model):
    with_weights(model / "unet", lambda state: {k: 1e6 * x.float() for k, x in state.items()})


UNFIT = {
    "no denoiser": (other_class, {}, "AutoencoderKL is no model(x_t, t).sample of images alone"),
    "classes": (of_classes, {}, "the model has classes 0 to 9, which are not"),
    "overflow": (too_wide, {"precision": "float16"}, "not finite in torch.float16"),
    "no size": (
        lambda model: with_settings(model / "unet/config.json", sample_size=None), {},
        "sample_size of ",
    ),
    "another size": (
        lambda model: with_settings(model / "unet/config.json", sample_size=16), {},
        "images digits for",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "values", "message"), UNFIT.values(), ids=UNFIT)
def test_models_that_do_not_fit_are_refused_before_any_work(
    tmp_path, capsys, model, change, values, message
):
    change(model)
    assert message in sweep(tmp_path, capsys, model=model, **values)


def test_what_only_float16_is_too_narrow_for_is_loaded(model):
    too_wide(model)
    loaded = load_model(model / "unet", diffusers.ModelMixin)
    assert loaded.conv_in.weight.abs().max() > 65504
