"""A U-Net and the encoder of its captions, trained together: it learns its few words itself. Chapter 9."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from diffusion_book._checks import at_least
from diffusion_book.nn.text import TextConfig, TextEncoder
from diffusion_book.nn.unet import UNet
from diffusion_book.nn.unet_config import UNetConfig


@dataclass(frozen=True)
class TextUNetConfig(UNetConfig):
    """A `UNetConfig` and what its captions are made of.

    Attributes:
        vocabulary: how many words the data has, with the one that is no word; see `TextConfig`.
        length: the most words of a caption.
        context_dim: features of a word; pooled_dim is 0, or as many, where the caption's mean is told besides.
        text_layers, text_heads: of the encoder.
        words: by their numbers, the first "" for none, where they were learnt from captions; () for those of `scenes`.
    """

    vocabulary: int = 0
    length: int = 0
    text_layers: int = 1
    text_heads: int = 4
    words: tuple[str, ...] = field(default=(), metadata={"later": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, vocabulary=self.vocabulary, length=self.length, context_dim=self.context_dim)
        if self.pooled_dim not in (0, self.context_dim):
            raise ValueError(f"pooled_dim must be 0 or context_dim = {self.context_dim}, got {self.pooled_dim}")
        if self.words and len(self.words) != self.vocabulary:
            raise ValueError(f"{len(self.words)} words are not the vocabulary of {self.vocabulary}")
        _ = self.text

    @property
    def text(self) -> TextConfig:
        """Of the encoder."""
        return TextConfig(self.vocabulary, self.length, self.context_dim, self.text_layers, self.text_heads)

    @classmethod
    def named(cls, size: str, **changes: Any) -> "TextUNetConfig":
        """A size of `UNetConfig` by name, with changes, among them what has no default: the vocabulary and so on."""
        return cls(**{**vars(UNetConfig.named(size)), **changes})


class TextUNet(nn.Module):
    """x_t, t and a caption → a prediction of x_t's shape. Chapter 9."""

    def __init__(self, config: TextUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.text, self.unet = TextEncoder(config.text), UNet(config)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """
        Args:
            x: [B, C, H, W]. t: [B]. y: [B], see `UNet`.
            tokens: [B, length], numbers of words; zeros, or None, say nothing.

        Returns:
            [B, C, H, W]; see `UNet`.
        """
        if tokens is None:
            return self.unet(x, t, y)
        context, mask, pooled = self.text(tokens)
        return self.unet(x, t, y, context, mask, pooled if self.config.pooled_dim else None)
