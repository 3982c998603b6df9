"""Checkpoints of OpenAI's guided-diffusion (ADM) as stock diffusers models.

The paper's model is guided-diffusion's unconditional 256x256 one. :func:`load_adm` turns its file
into a ``UNet2DModel`` and a ``DDPMScheduler`` that compute the same function, so that everything
else in this package sees a diffusers model like any other. Those of 128x128 (heads of unequal
width) and 512x512 (a first resolution narrower than the time embedding) become a
``UNet2DConditionModel``, whose attention to texts is given one of length 0 (:func:`no_text`).

The flags are those of guided-diffusion's command line, as in the README beside the checkpoints;
see :class:`~hierphase.diffusion.guided_diffusion_flags.ADMFlags`. Some of them leave no trace in
the names and shapes of the weights: ``num_head_channels`` (or ``num_heads``),
``use_new_attention_order``, ``noise_schedule`` and ``diffusion_steps``. A wrong one gives a wrong
model and no error.
"""

import math
import re
from pathlib import Path

import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel, UNet2DModel
from torch.nn import functional

from hierphase.checks import naming
from hierphase.diffusion.guided_diffusion_flags import GROUPS, ADMFlags, parse_flags
from hierphase.diffusion.state_dicts import differences, read_state_dict

OF_NO_TEXT = 1  # width of texts where there are none

# Module of diffusers -> module of guided-diffusion, within a block and at the top.
PARTS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    "group_norm": "norm", "to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "proj_out",
}  # fmt: skip
TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip
FREQUENCIES = "time_proj.weight"  # where there are others than the first resolution is wide
# Stored as convolutions of width 1 over the positions, linear maps in diffusers.
CONVOLUTIONS = ("qkv.weight", "proj_out.weight")
# E.g. down_blocks.3.attentions.1.to_out.0: side, level, kind, number and part of a module.
BLOCK = re.compile(r"(down|mid|up)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.+)")


def load_adm(path: str | Path, **flags) -> tuple[ModelMixin, DDPMScheduler]:
    """Read a guided-diffusion checkpoint.

    Nothing but tensors is ever unpickled. The model is in float32, on the CPU, in evaluation mode;
    it maps images (n, 3, image_size, image_size) in [-1, 1] and time indices to the predicted noise
    and, after it, the variance (n, 6, image_size, image_size) that the scheduler's
    ``learned_range`` expects. A class-conditional one takes ``class_labels`` (n,) too, one of
    128x128 or 512x512 what :func:`no_text` says.

    The scheduler with 250 steps is guided-diffusion's ``--timestep_respacing 250``, with clipped
    predictions. Other diffusers schedulers want the first 3 channels only.

    Args:
        path: a ``.pt`` file as published, or the same state dict as ``.safetensors``.
        **flags: fields of :class:`~hierphase.diffusion.guided_diffusion_flags.ADMFlags`, where they
            differ from the unconditional 256 model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut short, no checkpoint, or holds more than tensors; or as
            :func:`convert_state_dict`.
    """
    adm = parse_flags(flags)
    state_dict = read_state_dict(path)
    with naming(path):
        converted = convert_state_dict(state_dict, **flags)
    unet = empty_unet(adm)
    unet.load_state_dict(converted, assign=True)
    return unet.eval(), _scheduler(adm)


def convert_state_dict(state_dict: dict[str, torch.Tensor], **flags) -> dict[str, torch.Tensor]:
    """Rename and rearrange guided-diffusion's weights for the U-Net of :func:`load_adm`.

    Args:
        state_dict: name -> tensor, as guided-diffusion stores them; left as it is.
        **flags: fields of :class:`~hierphase.diffusion.guided_diffusion_flags.ADMFlags`, where they
            differ from the unconditional 256 model.

    Returns:
        Name in the U-Net -> a new float32 tensor.

    Raises:
        ValueError: an unknown or impossible flag; or names or shapes that are not those of a model
            with these flags; or numbers that are no floats, or not finite as float32.
    """
    adm = parse_flags(flags)
    wanted, names, converted = empty_unet(adm).state_dict(), {}, {}
    for name, x in wanted.items():
        if name == FREQUENCIES or ".add_" in name:  # the latter attend to texts
            converted[name] = torch.zeros(x.shape)
        else:
            names.setdefault(_source(name, adm), []).append(name)
    expected = {}
    for source, of in names.items():
        x = torch.cat([wanted[name] for name in of])
        expected[source] = x[..., None] if source.endswith(CONVOLUTIONS) else x
    width, first = adm.num_channels, "time_embed.0.weight"
    expected[first] = expected[first][:, :width]
    if problems := differences(expected, state_dict):
        raise ValueError(f"the weights are not those of a model with {adm}: {problems}")
    if FREQUENCIES in wanted:  # four times as many as ADM has; the others are 0, with weight 0
        own = torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
        converted[FREQUENCIES][: width // 2] = own / (2 * math.pi)
        waves = functional.pad(state_dict[first].unflatten(1, (2, -1)), (0, 3 * width // 2))
        state_dict = {**state_dict, first: waves.flatten(1)}
    for source, of in names.items():
        for name, x in zip(of, _parts(state_dict[source], len(of), adm), strict=True):
            converted[name] = x.reshape_as(wanted[name]).to(torch.float32, copy=True).contiguous()
    return converted


def empty_unet(adm: ADMFlags) -> ModelMixin:
    """The network on the meta device: structure and configuration, no storage for weights.

    Args:
        adm: the checkpoint's flags.
    """
    plain, change = "{}Block2D", "conv"
    if adm.resblock_updown:
        plain, change = "Resnet{}sampleBlock2D", "resnet"
    kind, attending = UNet2DModel, "Attn{}Block2D"
    own = {"downsample_type": change, "upsample_type": change, "attn_norm_num_groups": GROUPS}
    if adm.conditioned:
        kind, attending = UNet2DConditionModel, "SimpleCrossAttn{}Block2D"
        time = "positional" if adm.widths[0] == adm.num_channels else "fourier"
        own = {
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "cross_attention_dim": OF_NO_TEXT,
            "time_embedding_type": time, "time_embedding_dim": 4 * adm.num_channels,
        }  # fmt: skip
    blocks = [attending if has else plain for has in adm.attention]
    always = {"norm_num_groups": GROUPS, "norm_eps": 1e-5, "flip_sin_to_cos": True, "freq_shift": 0}
    with torch.device("meta"):
        return kind(
            sample_size=adm.image_size,
            in_channels=3,
            out_channels=6 if adm.learn_sigma else 3,
            layers_per_block=adm.num_res_blocks,
            block_out_channels=adm.widths,
            down_block_types=tuple(block.format("Down") for block in blocks),
            up_block_types=tuple(block.format("Up") for block in blocks[::-1]),
            attention_head_dim=adm.heads if adm.conditioned else adm.heads[-1],
            resnet_time_scale_shift="scale_shift" if adm.use_scale_shift_norm else "default",
            dropout=adm.dropout,
            num_class_embeds=1000 if adm.class_cond else None,  # ImageNet
            **always,
            **own,
        )


def no_text(model: ModelMixin) -> dict[str, torch.Tensor]:
    """The ``conditions`` (1, ...) of a model that :func:`load_adm` has made; most have none."""
    needed = model.config.get("cross_attention_dim") == OF_NO_TEXT
    return {"encoder_hidden_states": torch.zeros(1, 0, OF_NO_TEXT)} if needed else {}


def _scheduler(adm: ADMFlags) -> DDPMScheduler:
    # By keyword: from_config of another scheduler would take diffusers' own for what is not.
    T, variance = adm.diffusion_steps, "learned_range" if adm.learn_sigma else "fixed_large"
    schedule = {"linear": "linear", "cosine": "squaredcos_cap_v2"}[adm.noise_schedule]
    betas = {"beta_start": 0.1 / T, "beta_end": 20 / T}  # 1e-4 and 0.02 at 1000 steps
    kinds = {"beta_schedule": schedule, "variance_type": variance, "timestep_spacing": "linspace"}
    return DDPMScheduler(num_train_timesteps=T, **betas, **kinds)


def _source(name: str, adm: ADMFlags) -> str:
    """guided-diffusion's name of the tensor that becomes parameter ``name`` of the U-Net."""
    module, _, parameter = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{parameter}"
    side, level, kind, i, part = BLOCK.fullmatch(module).groups()
    if side == "mid":
        block = f"middle_block.{1 if kind == 'attentions' else 2 * int(i)}"
    else:
        # A level has num_res_blocks + 1 blocks, each one residual block and what follows it; on the
        # way down the last only halves the size. Input block 0 is conv_in.
        level, i = int(level), adm.num_res_blocks if kind.endswith("samplers") else int(i)
        number = level * (adm.num_res_blocks + 1) + i + (side == "down")
        place = {"attentions": 1, "upsamplers": 1 + adm.attention[::-1][level]}.get(kind, 0)
        block = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{place}"
    conv = {"conv": "op" if side == "down" else "conv"}  # of a plain change of the size
    return f"{block}.{(PARTS | conv)[part]}.{parameter}"


def _parts(stored: torch.Tensor, n: int, adm: ADMFlags) -> list[torch.Tensor]:
    """What n parameters of the U-Net are made of: queries, keys and values are stored together."""
    if n == 1:
        return [stored]
    head = adm.head_width(len(stored) // n)
    if adm.use_new_attention_order:
        return stored.unflatten(0, (n, -1, head)).unbind(0)
    return stored.unflatten(0, (-1, n, head)).unbind(1)  # within a head
