"""What a U-Net is made of, and the sizes that have names. Chapter 5."""

import math
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Literal, get_args

from diffusion_book._checks import at_least, one_of, positive
from diffusion_book._names import check_known
from diffusion_book.nn.blocks import Conditioning

Mixer = Literal["attention", "spatial_transformer"]

LATER = {"later": True}
"""Of a field that there was not when the first files were written: it is said only where it is not the default."""


@dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of (Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3). Chapter 5.

    Attributes:
        image_channels: 1 for digits, 3 for colour.
        channels: features at the highest resolution; even, for the sines and cosines of the time.
        channel_mults: features of each level, as multiples of `channels`, whole or not (1.5) as long as the features
            are whole; each level halves the resolution of the last.
        blocks: residual blocks at each level on the way down; the way up has one more.
        attention_levels: levels (0 is the highest resolution) that end their blocks with attention.
        middle_attention: whether the middle has attention; None is yes where any level has it.
        head_channels: features of one attention head; None is one head of all features. Several are one for each level,
            as in Stable Diffusion 1, which has eight heads everywhere.
        patch: the stem turns patch × patch pixels into one position; 2 is four times cheaper than 1.
        groups: groups of each GroupNorm; must divide every level's features.
        classes: number of classes, or 0 for none.
        no_label: with classes, whether label `classes` (or leaving y out) means "no label", as guidance needs.
        context_dim: features of a token of text, or 0 for none; wherever there is attention, the picture then looks
            at the text too.
        pooled_dim: features of one vector for the whole text, or 0 for none; it is added to the embedding of the time.
        mixer: what lets the positions of a level see each other and the text; one of `unet.MIXERS`.
        learned_variance: the output has 2C channels, the prediction and then v, which interpolates the logarithm of
            the variance between its bounds (Nichol and Dhariwal 2021, section 3.1).
        dropout: inside the residual blocks, in [0, 1).
        checkpoint: keep no activations inside the stages and compute them again for the gradient: about a third
            slower, and far less memory (Chen et al. 2016).

    The rest are choices that others made otherwise, so that their weights fit (`interop.diffusers`). Start without.

    Attributes:
        conditioning: how the embedding enters a block, "scale_shift" or "add"; see `ResBlock`.
        resample: between levels, "conv" or a residual "block" that pools or repeats pixels.
        pad_end: of the strided convolutions; see `Downsample`.
        middle_attention_norm: whether the middle's self-attention begins with a GroupNorm.
        norm_eps: of every GroupNorm.
        time_origin, frequency_shift, sines_first: of the sinusoids of the time; see `TimeEmbedding`.
    """

    image_channels: int = 1
    channels: int = 32
    channel_mults: tuple[float, ...] = (1, 2, 2)
    blocks: int = 1
    attention_levels: tuple[int, ...] = (2,)
    middle_attention: bool | None = None
    head_channels: int | tuple[int, ...] | None = 32
    patch: int = 1
    groups: int = 8
    classes: int = 0
    no_label: bool = True
    context_dim: int = 0
    pooled_dim: int = field(default=0, metadata=LATER)
    mixer: Mixer = field(default="attention", metadata=LATER)
    learned_variance: bool = False
    dropout: float = 0.0
    checkpoint: bool = False
    conditioning: Conditioning = "scale_shift"
    resample: Literal["conv", "block"] = "conv"
    pad_end: bool = False
    middle_attention_norm: bool = True
    norm_eps: float = 1e-5
    time_origin: int = 0
    frequency_shift: int = 0
    sines_first: bool = False

    def __post_init__(self) -> None:
        at_least(1, image_channels=self.image_channels, channels=self.channels, blocks=self.blocks, patch=self.patch)
        at_least(1, groups=self.groups)
        at_least(0, classes=self.classes, context_dim=self.context_dim, pooled_dim=self.pooled_dim)
        at_least(0, frequency_shift=self.frequency_shift)
        if not isinstance(self.channel_mults, tuple | list) or not self.channel_mults:
            raise ValueError(f"channel_mults needs at least one level, such as (1, 2, 2), got {self.channel_mults!r}")
        if not all(math.isfinite(mult) for mult in self.channel_mults):
            raise ValueError(f"channel_mults must be finite numbers, such as (1, 2, 2), got {self.channel_mults!r}")
        if self.channels % 2:
            raise ValueError(f"channels must be even, got {self.channels}")
        for mult, width in zip(self.channel_mults, self.widths):
            if abs(self.channels * mult - width) > 1e-6 * width or width < 1:
                raise ValueError(
                    f"every level needs a whole number of features, got {self.channels} × {mult} = "
                    f"{self.channels * mult:g}; change channel_mults"
                )
            if width % self.groups:
                raise ValueError(f"groups = {self.groups} must divide the features of every level, got {width}")
        last = len(self.channel_mults) - 1
        if len(self.head_widths) != last + 1:
            raise ValueError(f"head_channels needs a number for each of {last + 1} levels, got {self.head_channels}")
        for head_width in self.head_widths:
            at_least(1, head_channels=head_width)
        for level in self.attention_levels:
            if not isinstance(level, Integral) or not 0 <= level <= last:
                raise ValueError(f"attention_levels must be whole numbers in 0 … {last}, got {level}")
        for level in {*self.attention_levels, last} if self.attends_in_the_middle else self.attention_levels:
            if self.widths[level] % self.head_widths[level]:
                raise ValueError(
                    f"head_channels = {self.head_channels} must divide the features of attention level {level} "
                    f"(the middle is level {last}), got {self.widths[level]}"
                )
        check_known("mixer", self.mixer, get_args(Mixer))
        if self.mixer == "spatial_transformer" and not self.context_dim:
            raise ValueError("mixer = 'spatial_transformer' reads a text; give context_dim, or take 'attention'")
        if self.context_dim and not (self.attention_levels or self.attends_in_the_middle):
            raise ValueError("context_dim needs attention somewhere to read the text; give attention_levels")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        positive("norm_eps", self.norm_eps, "1e-5 is usual")
        one_of("conditioning", self.conditioning, ("scale_shift", "add"))
        one_of("resample", self.resample, ("conv", "block"))

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each level."""
        return tuple(round(self.channels * mult) for mult in self.channel_mults)

    @property
    def head_widths(self) -> tuple[int, ...]:
        """Features of one attention head at each level; the middle has those of the last."""
        if isinstance(self.head_channels, tuple | list):
            return tuple(self.head_channels)
        return self.widths if self.head_channels is None else (self.head_channels,) * len(self.widths)

    @property
    def attends_in_the_middle(self) -> bool:
        """Whether the middle has attention."""
        return bool(self.attention_levels) if self.middle_attention is None else self.middle_attention

    @property
    def out_channels(self) -> int:
        """Channels of the output: the image's, or twice as many with a learned variance."""
        return self.image_channels * (2 if self.learned_variance else 1)

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.patch * 2 ** (len(self.channel_mults) - 1)

    @classmethod
    def named(cls, size: str, **changes: Any) -> "UNetConfig":
        """A size by name, with changes: `UNetConfig.named("digits", classes=10)`."""
        check_known("U-Net size", size, SIZES)
        return replace(SIZES[size], **changes)


SIZES: dict[str, UNetConfig] = {
    # For tests: everything is there, nothing is large.
    "tiny": UNetConfig(channels=16, channel_mults=(1, 2), attention_levels=(1,), head_channels=16),
    # Chapter 6: 28×28 digits in minutes on a CPU; the stem halves the resolution first.
    "digits": UNetConfig(channels=32, channel_mults=(1, 2), attention_levels=(1,), patch=2),
    # 32×32 colour images on a GPU.
    "small": UNetConfig(image_channels=3, channels=64, channel_mults=(1, 2, 2), blocks=2, attention_levels=(1, 2)),
}
