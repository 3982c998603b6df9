"""A second opinion on ADM: its forward pass in plain functions, written from its description.

Names and shapes of the weights are stated here a second time too: :class:`Weights` makes each
tensor when the forward pass first asks for it, so that one pass yields a whole checkpoint.
"""

import math

import torch
import torch.nn.functional as F


class Weights(dict):
    """name -> tensor; an absent one is drawn, or made without storage where there is no generator.

    Nothing is left at zero (ADM's initial output layers are), or it would hide what comes before.
    """

    def __init__(self, generator=None):
        self.generator = generator

    def take(self, name, *shape, gain=1):
        if name not in self:
            if self.generator is None:
                self[name] = torch.empty(shape, device="meta")
            else:
                self[name] = torch.randn(shape, generator=self.generator)
                self[name] *= gain / math.sqrt(math.prod(shape[1:]))
        return self[name].to(torch.float64)


def linear(w, name, x, n_out):
    weight = w.take(f"{name}.weight", n_out, x.shape[1])
    return x @ weight.T + w.take(f"{name}.bias", n_out)


def conv(w, name, x, n_out, size, stride=1):
    weight = w.take(f"{name}.weight", n_out, x.shape[1], size, size)
    return F.conv2d(x, weight, w.take(f"{name}.bias", n_out), stride, padding=size // 2)


def norm(w, name, x):
    """32 groups of channels, each with mean 0 and variance 1, then scaled and shifted."""
    groups = x.reshape(len(x), 32, -1)
    mean, variance = groups.mean(2, keepdim=True), groups.var(2, keepdim=True, unbiased=False)
    x = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    scale, shift = w.take(f"{name}.weight", x.shape[1]), w.take(f"{name}.bias", x.shape[1])
    return x * scale[:, None, None] + shift[:, None, None]


def half(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def double(x):
    return x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def silu(x):
    return x * torch.sigmoid(x)


def residual(w, name, x, emb, n_out, scale_shift, resize=lambda x: x):
    h = conv(w, f"{name}.in_layers.2", resize(silu(norm(w, f"{name}.in_layers.0", x))), n_out, 3)
    x = resize(x)
    emb = linear(w, f"{name}.emb_layers.1", silu(emb), (1 + scale_shift) * n_out)[..., None, None]
    if scale_shift:
        scale, shift = emb[:, :n_out], emb[:, n_out:]
        h = norm(w, f"{name}.out_layers.0", h) * (1 + scale) + shift
    else:
        h = norm(w, f"{name}.out_layers.0", h + emb)
    h = conv(w, f"{name}.out_layers.3", silu(h), n_out, 3)
    if x.shape[1] != n_out:
        x = conv(w, f"{name}.skip_connection", x, n_out, 1)
    return x + h


def attention(w, name, x, head, new_order):
    """Head by head. Rows of qkv: (head, q/k/v, channel); the new order: (q/k/v, head, channel)."""
    n, width, *size = x.shape
    flat = norm(w, f"{name}.norm", x).reshape(n, width, -1)
    # Weights large enough that attention is far from uniform.
    qkv = w.take(f"{name}.qkv.weight", 3 * width, width, 1, gain=2)[..., 0] @ flat
    qkv = qkv + w.take(f"{name}.qkv.bias", 3 * width)[:, None]
    heads = []
    for i in range(width // head):
        starts = [j * width + i * head if new_order else (3 * i + j) * head for j in range(3)]
        q, k, v = (qkv[:, start : start + head] for start in starts)
        looked_at = torch.softmax(q.mT @ k / math.sqrt(head), dim=-1)  # (n, to, from)
        heads.append(v @ looked_at.mT)
    weight = w.take(f"{name}.proj_out.weight", width, width, 1)[..., 0]
    h = weight @ torch.cat(heads, dim=1) + w.take(f"{name}.proj_out.bias", width)[:, None]
    return x + h.reshape(n, width, *size)


def forward(
    w, x, t, y=None, *, image_size, num_channels, num_res_blocks, channel_mult,
    attention_resolutions, num_head_channels=None, num_heads=None, use_new_attention_order=False,
    resblock_updown=True, use_scale_shift_norm=True, learn_sigma=True,
):  # fmt: skip
    """The model's output in float64.

    Args:
        w: a Weights.
        x: (n, 3, image_size, image_size).
        t: times, (n,).
        y: classes, (n,).
        channel_mult: sequence of numbers, which make even the first width another than that of
            the time embedding.
        attention_resolutions: sequence of integers.
        num_head_channels: of every head; without it there are num_heads at every width.

    Returns:
        (n, 6, image_size, image_size); without learn_sigma 3 channels.
    """

    def attend(name, h):
        head = num_head_channels or h.shape[1] // num_heads
        return attention(w, name, h, head, use_new_attention_order)

    # The one thing that ADM itself does in float32 always; at t ~ 1000 the digits matter.
    half_width = num_channels // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half_width) / half_width)
    angles = t.float()[:, None] * frequencies.to(x.device)
    emb = torch.cat([angles.cos(), angles.sin()], dim=1).double()
    emb = silu(linear(w, "time_embed.0", emb, 4 * num_channels))
    emb = linear(w, "time_embed.2", emb, 4 * num_channels)
    if y is not None:
        emb = emb + w.take("label_emb.weight", 1000, 4 * num_channels)[y]

    widths = [int(factor * num_channels) for factor in channel_mult]
    h = conv(w, "input_blocks.0.0", x.double(), widths[0], 3)
    kept, block, size = [h], 0, image_size
    for level, width in enumerate(widths):
        for _ in range(num_res_blocks):
            block += 1
            h = residual(w, f"input_blocks.{block}.0", h, emb, width, use_scale_shift_norm)
            if size in attention_resolutions:
                h = attend(f"input_blocks.{block}.1", h)
            kept.append(h)
        if level < len(widths) - 1:
            block, size = block + 1, size // 2
            name = f"input_blocks.{block}.0"
            if resblock_updown:
                h = residual(w, name, h, emb, width, use_scale_shift_norm, half)
            else:
                h = conv(w, f"{name}.op", h, width, 3, stride=2)
            kept.append(h)

    h = residual(w, "middle_block.0", h, emb, width, use_scale_shift_norm)
    h = attend("middle_block.1", h)
    h = residual(w, "middle_block.2", h, emb, width, use_scale_shift_norm)

    block = -1
    for level, width in reversed(list(enumerate(widths))):
        for i in range(num_res_blocks + 1):
            block += 1
            h = torch.cat([h, kept.pop()], dim=1)
            h = residual(w, f"output_blocks.{block}.0", h, emb, width, use_scale_shift_norm)
            layer = 1
            if size in attention_resolutions:
                h = attend(f"output_blocks.{block}.1", h)
                layer = 2
            if i == num_res_blocks and level > 0:
                size *= 2
                name = f"output_blocks.{block}.{layer}"
                if resblock_updown:
                    h = residual(w, name, h, emb, width, use_scale_shift_norm, double)
                else:
                    h = conv(w, f"{name}.conv", double(h), width, 3)
    return conv(w, "out.2", silu(norm(w, "out.0", h)), 6 if learn_sigma else 3, 3)


def case(flags, class_cond=False, seed=0):
    """A random checkpoint, one input of two images, and the reference's output."""
    generator = torch.Generator().manual_seed(seed)
    weights = Weights(generator)
    size = flags["image_size"]
    inputs = [torch.randn((2, 3, size, size), generator=generator), torch.tensor([3, 870])]
    inputs += [torch.tensor([7, 999])] if class_cond else []
    expected = forward(weights, *inputs, **flags)  # fills the weights
    return dict(weights), inputs, expected


def error(model, inputs, expected, **conditions):
    """Relative error of a converted model."""
    x, t, *labels = inputs
    named = dict(zip(["class_labels"], labels, strict=False))
    with torch.no_grad():
        output = model(x.to(model.dtype), timestep=t, **named, **conditions).sample
    return float((output - expected).norm() / expected.norm())


def published(**changes):
    """Without storage, the state dict of a published model, names by the reference."""
    flags = {
        "image_size": 256, "num_channels": 256, "num_res_blocks": 2, "num_head_channels": 64,
        "channel_mult": (1, 1, 2, 2, 4, 4), "attention_resolutions": (32, 16, 8), **changes,
    }  # fmt: skip
    class_cond, weights = flags.pop("class_cond", False), Weights()
    x = torch.empty((1, 3, flags["image_size"], flags["image_size"]), device="meta")
    t = torch.empty(1, dtype=torch.long, device="meta")
    forward(weights, x, t, t if class_cond else None, **flags)
    return dict(weights)
