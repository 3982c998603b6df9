"""guided-diffusion's 128 and 512 models, which no UNet2DModel can state: UNet2DConditionModel."""

import pytest
import torch
from adm_reference import case, error, published
from diffusers import UNet2DConditionModel

from hierphase.__main__ import main
from hierphase.diffusion.guided_diffusion import convert_state_dict, load_adm, no_text
from hierphase.diffusion.model_folders import load_denoiser

# As the 128 model in all but the sizes: as many heads at each width.
UNEQUAL = {
    "image_size": 16, "num_channels": 32, "num_res_blocks": 2, "channel_mult": (1, 1, 2, 3, 4),
    "attention_resolutions": (4, 2, 1), "num_heads": 4,
}  # fmt: skip
# As the 512 model, with fewer resolutions: the first is narrower than the time embedding.
NARROW = {
    "image_size": 8, "num_channels": 64, "num_res_blocks": 2, "channel_mult": (0.5, 1, 1, 2),
    "attention_resolutions": (4, 1), "num_head_channels": 16,
}  # fmt: skip
BOTH = pytest.mark.parametrize("flags", [UNEQUAL, NARROW], ids=["128", "512"])


def texts(model, n=2):
    return {name: x.expand(n, 0, 1).to(model.dtype) for name, x in no_text(model).items()}


@BOTH
@pytest.mark.parametrize("class_cond", [False, True])
@pytest.mark.parametrize("changes", [{}, {"use_new_attention_order": True}], ids=["old", "new"])
def test_equals_the_reference(flags, class_cond, changes, tmp_path):
    flags = flags | changes
    state_dict, inputs, expected = case(flags, class_cond)
    assert 0.5 < expected.std() < 2
    torch.save(state_dict, tmp_path / "model.pt")
    model, _ = load_adm(tmp_path / "model.pt", class_cond=class_cond, **flags)
    assert type(model) is UNet2DConditionModel and not model.training
    assert error(model, inputs, expected, **texts(model)) < 1e-5
    if flags["num_channels"] == 32:  # else frequencies are weights, in float32
        assert error(model.double(), inputs, expected, **texts(model)) < 1e-10


@BOTH
def test_what_saved_settings_say_is_the_model(flags, tmp_path, capsys):
    """No module was changed by hand: diffusers makes the same of what the command has written."""
    state_dict, inputs, expected = case(flags, class_cond=True)
    torch.save(state_dict, tmp_path / "model.pt")
    words = ["convert-adm", str(tmp_path / "model.pt"), str(tmp_path / "out")]
    for name, flag in (flags | {"class_cond": True}).items():
        words += ["-p", name, str(flag).strip("()")]
    assert main(words) == 0
    found = load_denoiser(tmp_path / "out")
    assert found.conditions["encoder_hidden_states"].shape == (1, 0, 1)
    model = UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet")
    for one in (found.model, model):
        assert error(one, inputs, expected, **texts(one)) < 1e-5


@BOTH
def test_reference_sees_what_keys_and_shapes_do_not(flags, tmp_path):
    state_dict, inputs, expected = case(flags)
    torch.save(state_dict, tmp_path / "model.pt")
    model, _ = load_adm(tmp_path / "model.pt", **flags)
    some = torch.ones(2, 3, 1)  # a text where there should be none
    assert error(model, inputs, expected, encoder_hidden_states=some) > 1e-2
    changed = {"attention_head_dim": 32} if flags is UNEQUAL else {"flip_sin_to_cos": False}
    wrong = UNet2DConditionModel.from_config({**model.config, **changed}).eval()
    wrong.load_state_dict(model.state_dict())
    assert error(wrong, inputs, expected, **texts(wrong)) > 1e-2


@pytest.mark.parametrize(
    ("flags", "own", "millions"),
    [
        ({"num_heads": 4}, {"channel_mult": (1, 1, 2, 3, 4), "num_head_channels": None}, 421.530),
        ({}, {"channel_mult": (0.5, 1, 1, 2, 2, 4, 4)}, 558.998),
    ],
    ids=["128", "512"],
)
def test_flags_of_published_models_fit_their_full_size(flags, own, millions):
    """As the paper on ADM counts: 421 and 559 million."""
    size = 128 if flags else 512
    flags = flags | {"image_size": size, "class_cond": True}
    state_dict = published(**flags, **own)
    assert sum(x.numel() for x in state_dict.values()) / 1e6 == pytest.approx(millions, abs=1e-3)
    converted = convert_state_dict(state_dict, **flags)
    added = {name for name in converted if ".add_" in name or name == "time_proj.weight"}
    both = {name: x.numel() for name, x in converted.items() if name not in added}
    both["time_embedding.linear_1.weight"] = 1024 * 256  # of more frequencies, with weight 0
    assert sum(both.values()) == sum(x.numel() for x in state_dict.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"num_heads": 4, "channel_mult": "1,2,3", "attention_resolutions": (256, 64)},
            r"num_heads 4: heads of \[64, 192\] channels in input_blocks.1.1.qkv, at a width of "
            "256: take one num_head_channels",
        ),
        (
            {"image_size": 128, "num_heads": 4, "resblock_updown": False},
            r"input_blocks.3.0.op is a plain convolution .* heads of \(256, 192, 128, 192, 256\)",
        ),
        (
            {"image_size": 512, "resblock_updown": False},
            r"input_blocks.3.0.op is .* widths of \(128, 256, .* with resblock_updown only",
        ),
        ({"channel_mult": "0.3,1"}, "channel_mult must make multiples of 32, got 76 channels"),
        ({"channel_mult": "inf,1"}, "channel_mult must be positive numbers .*, got 'inf,1'"),
    ],
)
def test_the_layer_that_no_model_of_diffusers_has_is_named(flags, message):
    with pytest.raises(ValueError, match=message):
        convert_state_dict({}, **flags)
