"""guided-diffusion checkpoints: the converted model against an independent forward pass."""

import re

import adm_reference
import numpy as np
import pytest
import torch
from adm_reference import case, error
from diffusers import DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from hierphase.__main__ import main
from hierphase.diffusion.guided_diffusion import convert_state_dict, load_adm
from hierphase.diffusion.guided_diffusion_flags import ADMFlags

# As the unconditional 256 model in all but the sizes.
UNCONDITIONAL = {
    "image_size": 64, "num_channels": 32, "num_res_blocks": 2, "channel_mult": (1, 1, 2, 2, 4, 4),
    "attention_resolutions": (8, 4, 2), "num_head_channels": 16,
}  # fmt: skip
# As the 64 model: classes, three blocks, the new order.
CONDITIONAL = {
    "image_size": 16, "num_channels": 32, "num_res_blocks": 3, "channel_mult": (1, 2, 3),
    "attention_resolutions": (8, 4), "num_head_channels": 16, "use_new_attention_order": True,
}  # fmt: skip
# What no published model is.
PLAIN = {
    **CONDITIONAL, "attention_resolutions": (8,), "resblock_updown": False,
    "use_scale_shift_norm": False, "learn_sigma": False, "use_new_attention_order": False,
}  # fmt: skip
SMALL = {**CONDITIONAL, "num_res_blocks": 1, "channel_mult": (1, 2)}


def saved(directory, state_dict, name="model.pt"):
    torch.save(state_dict, directory / name)
    return directory / name


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(path, state dict, inputs, output) of a small checkpoint."""
    state_dict, inputs, expected = case(SMALL)
    return saved(tmp_path_factory.mktemp("adm"), state_dict), state_dict, inputs, expected


@pytest.mark.parametrize("class_cond", [False, True])
@pytest.mark.parametrize("flags", [UNCONDITIONAL, CONDITIONAL, PLAIN], ids=["256", "64", "plain"])
@pytest.mark.parametrize("new_order", [False, True])
def test_equals_the_reference(flags, class_cond, new_order, tmp_path):
    flags = {**flags, "use_new_attention_order": new_order}
    state_dict, inputs, expected = case(flags, class_cond)
    model, _ = load_adm(saved(tmp_path, state_dict), class_cond=class_cond, **flags)
    assert not model.training and model.dtype == torch.float32
    assert error(model, inputs, expected) < 1e-5
    assert error(model.double(), inputs, expected) < 1e-10


def test_heads_by_number_where_the_widths_allow_it(tmp_path):
    flags = {**CONDITIONAL, "attention_resolutions": (4,)}
    state_dict, inputs, expected = case(flags)
    path = saved(tmp_path, state_dict)
    del flags["num_head_channels"]
    assert error(load_adm(path, num_heads=6, **flags)[0], inputs, expected) < 1e-5
    # As in guided-diffusion, the number is ignored beside a head size.
    model, _ = load_adm(path, num_heads=2, num_head_channels=16, **flags)
    assert error(model, inputs, expected) < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"attention_head_dim": 8}, {"freq_shift": 1}, {"flip_sin_to_cos": False},
        {"norm_eps": 1.0}, {"use_new_attention_order": True},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("flags", [UNCONDITIONAL, {**PLAIN, "resblock_updown": True}])
def test_reference_sees_what_keys_and_shapes_do_not(flags, change, tmp_path):
    """Each change loads cleanly. A plain chunk of legacy weights is what the new order asks for."""
    state_dict, inputs, expected = case(flags)
    model, _ = load_adm(saved(tmp_path, state_dict), **flags)
    if "use_new_attention_order" in change:
        wrong = model
        weights = convert_state_dict(state_dict, **{**flags, **change})
    else:
        wrong = UNet2DModel.from_config({**model.config, **change}).eval()
        weights = model.state_dict()
    wrong.load_state_dict(weights)
    assert error(wrong, inputs, expected) > 1e-2


@pytest.mark.parametrize(
    "flags, millions",
    [
        ({}, 552.814),
        ({"class_cond": True}, 553.838),
        (
            {"image_size": 64, "num_channels": 192, "num_res_blocks": 3, "class_cond": True,
             "use_new_attention_order": True},
            295.904,
        ),
    ],
    ids=["256", "256 with classes", "64"],
)  # fmt: skip
def test_flags_of_published_models_fit_their_full_size(flags, millions):
    multiples = {"channel_mult": (1, 2, 3, 4)} if "image_size" in flags else {}
    state_dict = adm_reference.published(**flags, **multiples)
    converted = convert_state_dict(state_dict, **flags)
    count = sum(tensor.numel() for tensor in converted.values())
    assert count == sum(tensor.numel() for tensor in state_dict.values())
    assert count / 1e6 == pytest.approx(millions, abs=1e-3)


def test_flags_as_text_and_half_precision(small):
    state_dict = small[1]
    halved = {name: tensor.half() for name, tensor in state_dict.items()}
    text = {**SMALL, "attention_resolutions": "8,4", "channel_mult": "1,2"}
    before = {name: tensor.clone() for name, tensor in halved.items()}
    converted = convert_state_dict(halved, **text)
    assert all(tensor.dtype == torch.float32 for tensor in converted.values())
    converted["conv_in.weight"] += 1
    assert all(torch.equal(halved[name], tensor) for name, tensor in before.items())


def respaced(betas, n):
    """Indices, alpha_bar, its predecessor and beta of a process that keeps n of its levels."""
    spaced = np.array([round(i * (len(betas) - 1) / (n - 1)) for i in range(n)])
    alpha_bar = np.cumprod(1 - betas)[spaced]
    before = np.append(1.0, alpha_bar[:-1])
    return spaced, alpha_bar, before, 1 - alpha_bar / before


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("learn_sigma", [True, False])
def test_scheduler_is_the_respaced_process(schedule, learn_sigma, small, tmp_path):
    """Every step of 250 against the posterior's closed form, in float64."""
    path, flags = small[0], {**SMALL, "noise_schedule": schedule, "learn_sigma": learn_sigma}
    if not learn_sigma:
        path = saved(tmp_path, case({**SMALL, "learn_sigma": False})[0])
    _, scheduler = load_adm(path, **flags)
    if schedule == "linear":
        betas = np.linspace(1e-4, 0.02, 1000)
    else:
        level = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - level[1:] / level[:-1], 0.999)
    np.testing.assert_allclose(scheduler.betas, betas, rtol=1e-5)
    spaced, alpha_bar, before, beta = respaced(betas, 250)
    scheduler.set_timesteps(250)
    assert scheduler.timesteps.tolist() == spaced[::-1].tolist()

    generator = torch.Generator().manual_seed(0)
    variance = beta * (1 - before) / (1 - alpha_bar)
    clipped = 0
    for i, t in reversed(list(enumerate(spaced))):
        x_0 = torch.rand((2, 3, 4, 4), generator=generator).double() * 2.4 - 1.2
        noise, share = torch.randn((2, 2, 3, 4, 4), generator=generator).double()
        fresh = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(i)).double()
        x_t = alpha_bar[i] ** 0.5 * x_0 + (1 - alpha_bar[i]) ** 0.5 * noise
        clipped += int((x_0.abs() > 1).sum())
        mean = before[i] ** 0.5 * beta[i] / (1 - alpha_bar[i]) * x_0.clamp(-1, 1)
        mean += (1 - beta[i]) ** 0.5 * (1 - before[i]) / (1 - alpha_bar[i]) * x_t
        log_variance = torch.full_like(x_t, np.log(beta[i]))
        if learn_sigma and i > 0:
            log_variance = share * np.log(beta[i]) + (1 - share) * np.log(variance[i])
        expected = mean + (log_variance / 2).exp() * fresh * (i > 0)  # no noise in the last step

        output = torch.cat([noise, 2 * share - 1], dim=1) if learn_sigma else noise
        step = scheduler.step(
            output.float(), int(t), x_t.float(), generator=torch.Generator().manual_seed(i)
        ).prev_sample
        # At the cleanest levels 1 - alpha_bar has few digits in the float32 of diffusers.
        torch.testing.assert_close(step.double(), expected, atol=1e-4, rtol=1e-4)
    assert clipped > 1000


def test_scheduler_starts_midway(small):
    _, scheduler = load_adm(small[0], **SMALL)
    spaced = respaced(np.linspace(1e-4, 0.02, 1000), 250)[0]
    x_t, output = torch.randn((2, 3, 4, 4)), torch.randn((2, 6, 4, 4))
    steps = []
    for timesteps in (spaced, spaced[:101]):
        scheduler.set_timesteps(timesteps=timesteps[::-1])
        generator = torch.Generator().manual_seed(0)
        steps.append(scheduler.step(output, int(spaced[100]), x_t, generator=generator).prev_sample)
    assert torch.equal(*steps)


def test_fewer_noise_levels_keep_the_noise(small):
    _, scheduler = load_adm(small[0], **SMALL, diffusion_steps=100)
    assert scheduler.config.num_train_timesteps == 100
    np.testing.assert_allclose(scheduler.betas, np.linspace(1e-3, 0.2, 100), rtol=1e-5)
    another = DPMSolverMultistepScheduler.from_config(scheduler.config)  # as by a sampler's name
    assert torch.equal(another.alphas_cumprod, scheduler.alphas_cumprod)


def words(flags):
    """The flags as words of the command line."""
    text = {name: re.sub(r"[() ]", "", str(value)) for name, value in flags.items()}
    return [word for name, value in text.items() for word in ("-p", name, value)]


def test_command_line_writes_the_layout_of_diffusers(small, tmp_path, capsys):
    path, _, inputs, expected = small
    assert main(["convert-adm", str(path), str(tmp_path / "out"), *words(SMALL)]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    files = {str(p.relative_to(tmp_path / "out")) for p in tmp_path.glob("out/**/*.*")}
    assert files == {
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    model = UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")
    assert error(model, inputs, expected) < 1e-5
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.scheduler.config.variance_type == "learned_range"
    assert isinstance(DDPMScheduler.from_pretrained(tmp_path / "out/scheduler"), DDPMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(num_inference_steps=3, output_type="np").images
    assert images.shape == (1, 16, 16, 3) and np.isfinite(images).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-p", "image_sise", "64"], "guided-diffusion 'image_sise' (did you mean 'image_size'?)"),
        (["-p", "use_fp16", "True"], "unknown parameter of guided-diffusion 'use_fp16'"),
        (["-p", "image_size", "16", "-p", "image_size", "32"], "given twice: 16 and '32'"),
        (["-p", "class_cond", "yes"], "is of type bool (default False); 'yes' is of"),
        ([], "the weights are not those of a model with ADMFlags"),
    ],
)
def test_command_line_errors(small, tmp_path, capsys, arguments, message):
    assert main(["convert-adm", str(small[0]), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_line_keeps_a_file_in_the_way(small, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert main(["convert-adm", str(small[0]), str(tmp_path / "out"), *words(SMALL)]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"image_size": 96}, "no published image_size 96: give channel_mult"),
        ({"image_size": 100, "channel_mult": "1,2,2,2"}, "divisible by 8, got 100"),
        ({"num_channels": 100}, "num_channels must be divisible by 32, got 100"),
        ({"num_head_channels": 60}, r"num_head_channels 60, .* heads of \[60\] channels"),
        ({"num_head_channels": -1}, "num_heads must be at least 1, got -1"),
        ({"channel_mult": "1,two"}, "channel_mult must be positive numbers .*, got '1,two'"),
        ({"attention_resolutions": (32, 0)}, r"attention_resolutions .*, got \[32, 0\]"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule 'sigmoid'; known: linear, cosine"),
        ({"diffusion_steps": 20}, "diffusion_steps must be at least 21, got 20"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1, got 0"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1, got 1.5"),
        ({"learn_sigma": 1}, "learn_sigma .* is of type bool .* 1 is of type int"),
    ],
)  # fmt: skip
def test_refuses_what_it_cannot_represent(flags, message):
    with pytest.raises(ValueError, match=message):
        convert_state_dict({}, **flags)


def test_names_and_shapes_must_fit(small):
    path, state_dict, _, _ = small
    spoilt = {name: value for name, value in state_dict.items() if "time_embed" not in name}
    spoilt["label_emb.weight"] = torch.zeros(1000, 128)
    spoilt["out.2.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as caught:
        convert_state_dict(spoilt, **SMALL)
    text = str(caught.value)
    assert "4 missing (time_embed.0.bias, time_embed.0.weight, time_embed.2.bias, ...)" in text
    assert "1 unexpected (label_emb.weight)" in text
    assert "1 of another shape (out.2.bias: (3,) instead of (6,))" in text
    assert "class_cond=False" in text
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*another shape.*128, 1"):
        load_adm(path, **{**SMALL, "channel_mult": (1, 4)})


def test_the_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page.pt: cut short or no checkpoint .16 bytes"):
        load_adm(tmp_path / "page.pt")
    with pytest.raises(FileNotFoundError, match=f"no checkpoint {tmp_path / 'absent.pt'}"):
        load_adm(tmp_path / "absent.pt")


def test_defaults_are_the_unconditional_256_model():
    flags = ADMFlags()
    assert flags.widths == (256, 256, 512, 512, 1024, 1024)
    assert flags.attention == (False, False, False, True, True, True)
    assert flags.heads == (64, 64, 64, 64, 64, 64) and not flags.conditioned
