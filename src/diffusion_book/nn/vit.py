"""The vision transformer: a picture is cut into patches, which look at each other as words do. Chapters 9 and 14.

CLIP's tower of pictures is one (Dosovitskiy et al. 2021; Radford et al. 2021, section 2.4), and
`interop.clip_vision_from_transformers` reads its weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion_book._checks import at_least
from diffusion_book._names import check_known
from diffusion_book.nn.inputs import check_images
from diffusion_book.nn.text import Encoded
from diffusion_book.nn.transformer import ACTIVATIONS, Activation, TransformerBlock


@dataclass(frozen=True)
class ViTConfig:
    """What a vision transformer is made of. The defaults are CLIP's ViT-B/32.

    Attributes:
        size: side of the pictures in pixels, a multiple of `patch`, the side of a patch. image_channels: of a pixel.
        width: D, features of a patch; a multiple of `heads`.
        layers: of the transformer. heads: of each attention.
        activation: "gelu", or "quick_gelu" as in CLIP. hidden: features between the two layers; None for 4 D.
        projection: features that what stands for the picture is mapped to, without a bias; 0 leaves it as it is.
        eps: of the normalisations.
    """

    size: int = 224
    patch: int = 32
    image_channels: int = 3
    width: int = 768
    layers: int = 12
    heads: int = 12
    activation: Activation = "quick_gelu"
    hidden: int | None = None
    projection: int = 0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        at_least(1, size=self.size, patch=self.patch, image_channels=self.image_channels)
        at_least(1, width=self.width, heads=self.heads)
        at_least(0, layers=self.layers, projection=self.projection)
        if self.hidden is not None:
            at_least(1, hidden=self.hidden)
        if self.size % self.patch:
            raise ValueError(f"size must be a multiple of patch = {self.patch}, got {self.size}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads = {self.heads}, got {self.width}")
        check_known("activation", self.activation, ACTIVATIONS)


class ViT(nn.Module):
    """Pictures → `Encoded`: a vector for each patch behind one that stands for all, and that one, normalised.

    Source: Dosovitskiy et al. 2021, section 3.1, with CLIP's normalisation before the first layer.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        D, p = config.width, config.patch
        self.patches = nn.Conv2d(config.image_channels, D, p, stride=p, bias=False)
        self.first = nn.Parameter(0.02 * torch.randn(D))
        self.positions = nn.Embedding(1 + (config.size // p) ** 2, D)
        self.norm_in = nn.LayerNorm(D, config.eps)
        self.blocks = nn.ModuleList(
            TransformerBlock(D, config.heads, config.activation, config.eps, config.hidden)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(D, config.eps)
        if config.projection:
            self.project = nn.Linear(D, config.projection, bias=False)

    def forward(self, x: Tensor, skip: int = 0) -> Encoded:
        """
        Args:
            x: [B, C, size, size], scaled as the weights know it.
            skip: layers at the end that the context does not go through; 1 for an adapter that wants the patches.

        Returns:
            The context [B, 1 + N, D] is not normalised, as in CLIP; what is pooled, [B, D] or [B, projection], is.

        Raises:
            ValueError: another shape; or skip is no number of layers here.
        """
        self._check(x, skip)
        h = self.patches(x).flatten(2).mT
        h = torch.cat([self.first.expand(len(h), 1, -1), h], dim=1)
        states = [self.norm_in(h + self.positions.weight)]
        for block in self.blocks:
            states.append(block(states[-1]))
        context, pooled = states[-1 - skip], self.norm(states[-1][:, 0])
        counts = torch.ones(context.shape[:2], dtype=torch.bool, device=x.device)
        return Encoded(context, counts, self.project(pooled) if self.config.projection else pooled)

    def _check(self, x: Tensor, skip: int) -> None:
        check_images(x, self.config.image_channels, self)
        if x.shape[2:] != (self.config.size, self.config.size):
            raise ValueError(f"pictures must be {self.config.size} pixels a side here, got {tuple(x.shape[2:])}")
        if not 0 <= skip <= self.config.layers:
            raise ValueError(f"skip must be a number of the {self.config.layers} layers, got {skip}; 0 takes them all")
