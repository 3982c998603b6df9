"""What guided-diffusion's flags say about a checkpoint, and which of it diffusers can represent."""

from contextlib import suppress
from dataclasses import dataclass

from hierphase.checks import at_least, check_known, fraction, positive_integer
from hierphase.parameters import check_values

GROUPS = 32  # of every normalisation

# Width of each resolution over num_channels, where the flag channel_mult is not given.
CHANNEL_MULT = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
CHANNEL_MULT[512] = (0.5, 1, 1, 2, 2, 4, 4)


@dataclass(frozen=True)
class ADMFlags:
    """What guided-diffusion's flags say about a checkpoint; defaults: the unconditional 256 model.

    Flags that say how to train or run a model (``use_fp16``, ``timestep_respacing``, ...) are not
    part of it: give the number of steps to the scheduler, the precision to the model.

    Args:
        image_size: height and width of the images, pixels.
        num_channels: width of the first resolution, a multiple of 32.
        num_res_blocks: residual blocks per resolution.
        channel_mult: width of each resolution over ``num_channels``, "0.5,1,2" or a sequence. The
            default, "", stands for the published model of this image size.
        attention_resolutions: sizes (pixels) of the feature maps with attention, "32,16,8" or a
            sequence.
        num_head_channels: channels of an attention head; -1 means that ``num_heads`` decides.
        num_heads: heads of every attention; looked at only if ``num_head_channels`` is -1, which
            :func:`~hierphase.diffusion.guided_diffusion.load_adm` assumes where this one alone is
            given.
        use_new_attention_order: heads inside queries, keys and values rather than around them.
        resblock_updown: residual blocks change the resolution, not plain convolutions.
        use_scale_shift_norm: the time embedding scales and shifts instead of being added.
        class_cond: the model takes one of 1000 classes.
        learn_sigma: the model predicts the variance too.
        dropout: probability, of no effect except in training.
        diffusion_steps: number of noise levels, at least 21 (fewer have no linear schedule).
        noise_schedule: "linear" or "cosine".

    Raises:
        ValueError: a value out of range, or an architecture that diffusers has no way to represent;
            then the message names a layer.
    """

    image_size: int = 256
    num_channels: int = 256
    num_res_blocks: int = 2
    channel_mult: str | tuple[int, ...] = ""
    attention_resolutions: str | tuple[int, ...] = "32,16,8"
    num_head_channels: int = 64
    num_heads: int = -1
    use_new_attention_order: bool = False
    resblock_updown: bool = True
    use_scale_shift_norm: bool = True
    class_cond: bool = False
    learn_sigma: bool = True
    dropout: float = 0.0
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"

    def __post_init__(self):
        at_least(vars(self), num_res_blocks=1, diffusion_steps=21, num_channels=1, image_size=1)
        check_known("noise_schedule", self.noise_schedule, ("linear", "cosine"))
        fraction("dropout", self.dropout)
        for name, factor in (("num_channels", GROUPS), ("image_size", 2 ** (len(self.widths) - 1))):
            if getattr(self, name) % factor:
                raise ValueError(f"{name} must be divisible by {factor}, got {getattr(self, name)}")
        if odd := [width for width in self.widths if width % GROUPS]:
            raise ValueError(f"channel_mult must make multiples of {GROUPS}, got {odd[0]} channels")
        if self.conditioned and not self.resblock_updown:
            layer = f"input_blocks.{self.num_res_blocks + 1}.0.op is a plain convolution"
            beside = f"beside widths of {self.widths} and heads of {self.heads} channels"
            raise ValueError(f"{layer} {beside}: diffusers has these with resblock_updown only")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, from the largest feature maps to the smallest."""
        factors = CHANNEL_MULT.get(self.image_size)
        if self.channel_mult not in ("", (), []):
            factors = _numbers("channel_mult", self.channel_mult, float)
        elif factors is None:
            raise ValueError(f"no published image_size {self.image_size}: give channel_mult")
        return tuple(int(factor * self.num_channels) for factor in factors)

    @property
    def attention(self) -> tuple[bool, ...]:
        """Whether each resolution has attention (between the two halves there always is one)."""
        sizes = _numbers("attention_resolutions", self.attention_resolutions, int)
        factors = {self.image_size // size for size in sizes}
        return tuple(2**level in factors for level in range(len(self.widths)))

    def head_width(self, width: int) -> int:
        """Channels of an attention head between feature maps of this width."""
        if self.num_head_channels != -1:
            return self.num_head_channels
        return width // positive_integer("num_heads", self.num_heads)

    @property
    def heads(self) -> tuple[int | None, ...]:
        """:meth:`head_width` at each resolution; None where it does not matter.

        The same from both ends: ``UNet2DConditionModel`` reads them in this order on its way down,
        and again on its way up.
        """
        attended = zip(self.widths, (*self.attention[:-1], True), strict=True)  # the middle has one
        heads = [self.head_width(width) if has else None for width, has in attended]
        for level, (width, head) in enumerate(zip(self.widths, heads, strict=True)):
            sizes = {head, heads[-1 - level]} - {None}
            if head is not None and (head < 1 or width % head or len(sizes) > 1):
                layer = f"input_blocks.{level * (self.num_res_blocks + 1) + 1}.1.qkv"
                given = f"num_head_channels {self.num_head_channels}, num_heads {self.num_heads}"
                found = f"heads of {sorted(sizes)} channels in {layer}, at a width of {width}"
                raise ValueError(f"{given}: {found}: take one num_head_channels, which divides all")
        return tuple(a or b for a, b in zip(heads, heads[::-1], strict=True))

    @property
    def conditioned(self) -> bool:
        """Whether it is a ``UNet2DConditionModel``, as ``UNet2DModel`` has no way to represent it.

        This has one size of heads, and a time embedding as wide as its first resolution.
        """
        return len({*self.heads} - {None}) > 1 or self.widths[0] != self.num_channels


def parse_flags(flags: dict) -> ADMFlags:
    """The flags of a checkpoint from those that differ from the unconditional 256 model.

    Args:
        flags: name -> value.

    Raises:
        ValueError: an unknown name (the closest is named), or as :class:`ADMFlags`.
    """
    if "num_heads" in flags:
        flags = {"num_head_channels": -1, **flags}
    defaults = vars(ADMFlags()) | dict.fromkeys(("channel_mult", "attention_resolutions"))
    return ADMFlags(**check_values("guided-diffusion", defaults, flags))


def _numbers(name: str, value: str | tuple, kind: type) -> tuple:
    """The numbers of "1,2,3", of a sequence, or of a single one."""
    with suppress(ValueError):
        numbers = tuple(kind(number) for number in str(value).strip("()[], ").split(","))
        if all(0 < number < 1e6 for number in numbers):
            return numbers
    raise ValueError(f"{name} must be positive numbers like 32,16,8, got {value!r}")
