"""What guided-diffusion's flags say about a checkpoint, and which of it diffusers can represent."""

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
        channel_mult: width of each resolution over ``num_channels``, "1,1,2" or a sequence. The
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
        ValueError: a value out of range, or an architecture that ``UNet2DModel`` has no way to
            represent.
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
        self.head_width  # noqa: B018 (raises where there is no single one)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, from the largest feature maps to the smallest."""
        if self.channel_mult in ("", (), []):
            if self.image_size not in CHANNEL_MULT:
                raise ValueError(f"no published image_size {self.image_size}: give channel_mult")
            factors = CHANNEL_MULT[self.image_size]
        else:
            factors = _integers("channel_mult", self.channel_mult)
        if factors[0] != 1:
            raise ValueError(f"channel_mult {factors} must start with 1, as UNet2DModel does")
        return tuple(factor * self.num_channels for factor in factors)

    @property
    def attention(self) -> tuple[bool, ...]:
        """Whether each resolution has attention (between the two halves there always is one)."""
        sizes = _integers("attention_resolutions", self.attention_resolutions)
        factors = {self.image_size // size for size in sizes}
        return tuple(2**level in factors for level in range(len(self.widths)))

    @property
    def head_width(self) -> int:
        """Channels of an attention head, the same at every resolution."""
        attended = {w for w, has in zip(self.widths, self.attention, strict=True) if has}
        attended.add(self.widths[-1])
        sizes = {self.num_head_channels}
        if sizes == {-1}:
            sizes = {width // positive_integer("num_heads", self.num_heads) for width in attended}
        if len(sizes) > 1 or any(size < 1 or w % size for size in sizes for w in attended):
            given = f"num_head_channels {self.num_head_channels}, num_heads {self.num_heads}"
            found = f"heads of {sorted(sizes)} channels at widths of {sorted(attended)}"
            raise ValueError(f"{given}: {found}, but UNet2DModel has one size, which divides all")
        return sizes.pop()


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


def _integers(name: str, value: str | tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of "1,2,3", of a sequence, or of a single integer."""
    try:
        numbers = str(value).strip("()[], ").split(",")
        return tuple(positive_integer(name, int(number)) for number in numbers)
    except ValueError:
        raise ValueError(f"{name} must be positive integers like 32,16,8, got {value!r}") from None
