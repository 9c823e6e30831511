"""What a caption becomes for a picture: a vector for each of its words, and one for all of it. Chapter 9."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from diffusion_book._checks import at_least, one_of
from diffusion_book._names import check_known
from diffusion_book.nn.transformer import ACTIVATIONS, Activation, TransformerBlock, looks_at


@dataclass(frozen=True)
class TextConfig:
    """What an encoder of texts is made of. The defaults are for captions of a few words, learnt with the picture.

    Attributes:
        vocabulary: how many tokens there are; they are numbered from 0.
        length: the most tokens of one text.
        width: D, features of a token; a multiple of `heads`.
        layers: of the transformer. heads: of each attention.
        causal: whether a token looks only at those before it.
        activation: "gelu", or "quick_gelu" as in CLIP.
        padding: the token that fills up short texts and does not count; None where all count, as in CLIP.
        pool: what stands for the text as a whole: the "mean" of its tokens, or the one of the largest number, which
            in CLIP marks the "end".
        projection: features that it is mapped to, without a bias; 0 where it is left as it is.
        hidden: features between the two layers of a block; None for 4 D.
        eps: of the normalisations.
    """

    vocabulary: int
    length: int
    width: int = 128
    layers: int = 1
    heads: int = 4
    causal: bool = False
    activation: Activation = "gelu"
    padding: int | None = 0
    pool: Literal["mean", "end"] = "mean"
    projection: int = 0
    hidden: int | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        at_least(1, vocabulary=self.vocabulary, length=self.length, width=self.width, heads=self.heads)
        at_least(0, layers=self.layers, projection=self.projection)
        if self.hidden is not None:
            at_least(1, hidden=self.hidden)
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads = {self.heads}, got {self.width}")
        check_known("activation", self.activation, ACTIVATIONS)
        one_of("pool", self.pool, ("mean", "end"))


class Encoded(NamedTuple):
    """A text as a U-Net takes it."""

    context: Tensor
    """[B, L, D], of each token."""
    mask: Tensor
    """[B, L], true where a token counts."""
    pooled: Tensor
    """[B, D], of the text as a whole, or [B, projection]; zeros where no token counts."""


class TextEncoder(nn.Module):
    """Numbers of tokens [B, L] → `Encoded`: embeddings and positions, a transformer, a last normalisation. Chapter 9.

    `interop.clip_text_from_transformers` reads CLIP's own weights into it.

    Source: Radford et al. 2021, section 2.4, whose encoder is the one with causal = True and pool = "end".
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.length, config.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.activation, config.eps, config.hidden)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, config.eps)
        if config.projection:
            self.project = nn.Linear(config.width, config.projection, bias=False)

    def forward(self, tokens: Tensor, skip: int = 0, norm: bool = True) -> Encoded:
        """
        Args:
            tokens: [B, L], L at most `length`.
            skip: layers at the end that the context does not go through. norm: whether it is normalised then. Stable
                Diffusion 1 takes all layers, 2 skips the last one of its encoder and normalises, XL skips one and does
                not. What is pooled goes through all.

        Raises:
            ValueError: tokens is not [B, L] of integers; skip is no number of layers here; or, on a CPU, there is no
                such token.
        """
        self._check(tokens, skip)
        counts = torch.ones_like(tokens, dtype=torch.bool)
        if self.config.padding is not None:
            counts = tokens != self.config.padding
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        mask = looks_at(counts, self.config.causal)
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1], mask))
        last = self.norm(states[-1])
        context = last if norm and not skip else states[-1 - skip]
        if norm and skip:
            context = self.norm(context)
        pooled = self._pool(last, counts, tokens)
        return Encoded(context, counts, self.project(pooled) if self.config.projection else pooled)

    def _pool(self, x: Tensor, counts: Tensor, tokens: Tensor) -> Tensor:
        if self.config.pool == "end":
            return x[torch.arange(len(x), device=x.device), tokens.argmax(1)]
        weight = counts[..., None].to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1)

    def _check(self, tokens: Tensor, skip: int) -> None:
        if not 0 <= skip <= self.config.layers:
            raise ValueError(f"skip must be a number of the {self.config.layers} layers, got {skip}; 0 takes them all")
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.ndim != 2:
            raise ValueError(f"tokens must be int64 [B, L], the numbers of a text's words, got {tokens!r:.80}")
        if tokens.shape[1] > self.config.length:
            raise ValueError(f"a text has at most {self.config.length} tokens here, got {tokens.shape[1]}")
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling() and tokens.numel():
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.config.vocabulary:
                raise ValueError(f"tokens are numbered 0 … {self.config.vocabulary - 1}, got {low} … {high}")
