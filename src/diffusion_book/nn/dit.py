"""The diffusion transformer: patches as tokens, told the time through their normalisation (Peebles and Xie 2023).

Chapter 5 compares it with the U-Net, chapter 17 goes on from it. Shapes: images [B, C, H, W], tokens [B, N, D] with
N = H·W / patch², times [B], labels [B].
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffusion_book._checks import at_least, check_time_of_each
from diffusion_book._names import check_known
from diffusion_book.nn.attention import attend
from diffusion_book.nn.embedding import ClassEmbedding, TimeEmbedding, timestep_embedding
from diffusion_book.nn.inputs import check_images, check_sides


@dataclass(frozen=True)
class DiTConfig:
    """What a DiT is made of (Peebles and Xie 2023, section 3.2). Chapter 5.

    Attributes:
        image_channels: 1 for digits, 3 for colour, 4 for latents.
        width: D, features of a token; a multiple of `heads` and of 4.
        depth: number of blocks.
        heads: of each attention.
        patch: patch × patch pixels are one token; half the patch is four times the tokens.
        mlp_ratio: features inside a block's two layers, as a multiple of D.
        classes: number of classes, or 0 for none.
        no_label: with classes, whether label `classes` (or leaving y out) means "no label", as guidance needs.
        learned_variance: the output has 2C channels, the prediction and then v; see `UNetConfig`.
        checkpoint: keep no activations inside the blocks and compute them again for the gradient.
    """

    image_channels: int = 1
    width: int = 128
    depth: int = 6
    heads: int = 4
    patch: int = 4
    mlp_ratio: int = 4
    classes: int = 0
    no_label: bool = True
    learned_variance: bool = False
    checkpoint: bool = False

    def __post_init__(self) -> None:
        at_least(1, image_channels=self.image_channels, width=self.width, depth=self.depth, heads=self.heads)
        at_least(1, patch=self.patch, mlp_ratio=self.mlp_ratio)
        at_least(0, classes=self.classes)
        if self.width % 4 or self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads = {self.heads}, and of 4 for sines of two axes, got {self.width}"
            )

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.patch

    @property
    def out_channels(self) -> int:
        """Channels of the output: the image's, or twice as many with a learned variance."""
        return self.image_channels * (2 if self.learned_variance else 1)

    @classmethod
    def named(cls, size: str, **changes: Any) -> "DiTConfig":
        """A size by name, with changes: `DiTConfig.named("digits", classes=10)`."""
        check_known("DiT size", size, DIT_SIZES)
        return replace(DIT_SIZES[size], **changes)


def _published(width: int, depth: int, heads: int, patch: int) -> DiTConfig:
    """On the latents of 1000 classes of images, as in the paper's table 1."""
    return DiTConfig(4, width, depth, heads, patch, classes=1000, learned_variance=True)


DIT_SIZES: dict[str, DiTConfig] = {
    # For tests: everything is there, nothing is large.
    "tiny": DiTConfig(width=32, depth=2, heads=2, patch=2),
    # 28×28 digits on a CPU: 49 tokens.
    "digits": DiTConfig(width=128, depth=6, heads=4, patch=4),
    **{f"S/{patch}": _published(384, 12, 6, patch) for patch in (2, 4, 8)},
    **{f"B/{patch}": _published(768, 12, 12, patch) for patch in (2, 4, 8)},
    **{f"L/{patch}": _published(1024, 24, 16, patch) for patch in (2, 4, 8)},
    **{f"XL/{patch}": _published(1152, 28, 16, patch) for patch in (2, 4, 8)},
}


class DiTBlock(nn.Module):
    """Attention, then two layers; the embedding shifts, scales and gates both (adaLN-Zero, section 3.2, figure 3).

    tokens [B, N, D] and embedding [B, D], after its SiLU → [B, N, D]. At the start both gates are shut: an identity.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * width, width)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def attention(self, x: Tensor) -> Tensor:
        """Every token looks at every other: [B, N, D] → [B, N, D]."""
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v).transpose(1, 2).reshape(B, N, D))


class DiT(nn.Module):
    """x_t, t and labels → a prediction of x_t's shape, or of twice its channels.

    Source: Peebles and Xie 2023, section 3.2. Chapter 5.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        D, pixels = config.width, config.patch**2
        self.embed_time = TimeEmbedding(256, D)
        self.embed_class = ClassEmbedding(config.classes, D, config.no_label) if config.classes else None
        self.stem = nn.Linear(config.image_channels * pixels, D)
        self.blocks = nn.ModuleList(DiTBlock(D, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.modulation = nn.Linear(D, 2 * D)
        self.norm = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(D, config.out_channels * pixels)
        self._initialise()

    def _initialise(self) -> None:
        """As the authors' code does: what modulates and what comes last is zero, so the network starts at zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
                if name.endswith("modulation") or name == "head":
                    nn.init.zeros_(module.weight)
                elif name.startswith("embed_time"):
                    nn.init.normal_(module.weight, std=0.02)
                else:
                    nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, ClassEmbedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """
        Args:
            x: [B, C, H, W], H and W multiples of `config.patch`.
            t: [B] times, integer or real.
            y: [B] labels in 0 … classes; None is no label.

        Returns:
            [B, C, H, W]; with `learned_variance` [B, 2C, H, W], the prediction and then v.

        Raises:
            ValueError: an input's shape or type does not fit, or the network has no use for it.
        """
        self._check(x, t, y)
        embedding = self.embed_time(t)
        if self.embed_class is not None:
            embedding = embedding + self.embed_class(y, len(x))
        embedding = F.silu(embedding)

        rows, columns = x.shape[2] // self.config.patch, x.shape[3] // self.config.patch
        h = self.stem(patchify(x, self.config.patch)) + positions(rows, columns, self.config.width, x.device).to(x)
        for block in self.blocks:
            if self.config.checkpoint and torch.is_grad_enabled():
                h = checkpoint(block, h, embedding, use_reentrant=False)
            else:
                h = block(h, embedding)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        return unpatchify(self.head(self.norm(h) * (1 + scale) + shift), rows, columns, self.config.patch)

    def _check(self, x: Tensor, t: Tensor, y: Tensor | None) -> None:
        check_images(x, self.config.image_channels, self.stem)
        check_sides(x, self.config.patch, f"the patch, {self.config.patch}", "use a smaller patch")
        check_time_of_each("images", x, t)
        if y is not None and self.embed_class is None:
            raise ValueError("this DiT has no classes (classes=0), so it takes no labels y")


def patchify(x: Tensor, patch: int) -> Tensor:
    """Cut images into tokens, row by row: [B, C, H, W] → [B, N, C·patch²]."""
    return F.pixel_unshuffle(x, patch).flatten(2).mT


def unpatchify(tokens: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """The inverse of `patchify`: [B, rows·columns, C·patch²] → [B, C, rows·patch, columns·patch]."""
    return F.pixel_shuffle(tokens.mT.unflatten(2, (rows, columns)), patch)


def positions(rows: int, columns: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Where each token stands, fixed: half of the features are waves of its column, half of its row.

    Source: Vaswani et al. 2017, section 3.5, in two dimensions; Peebles and Xie 2023, section 3.2.

    Returns:
        [rows·columns, dim] float32, row by row.
    """
    row, column = (
        timestep_embedding(torch.arange(n, device=device), dim // 2, sines_first=True) for n in (rows, columns)
    )
    return torch.cat([column.repeat(rows, 1), row.repeat_interleave(columns, 0)], dim=1)
