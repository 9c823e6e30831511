"""The transformer: tokens that look at each other, layer by layer (Vaswani et al. 2017). Chapter 9.

`TransformerBlock` is of texts; `SpatialTransformer` is what the pictures of Stable Diffusion are mixed by (chapter 13).

The normalisation stands before each part and not after it, as in all that was trained since GPT-2. Shapes: tokens
[B, L, D], masks [B, L].
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book.nn.attention import attend
from diffusion_book.nn.blocks import zero_init

Activation = Literal["gelu", "quick_gelu"]


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), which CLIP takes for GELU (Hendrycks and Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class TransformerBlock(nn.Module):
    """Attention, then two layers at each token, both around a shortcut: [B, L, D] → [B, L, D]. Chapter 9.

    Args:
        width: D. heads: of the attention; they divide D.
        activation: between the two layers.
        eps: of the normalisations.
        hidden: features between the two layers; None for 4 D.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        activation: Activation = "gelu",
        eps: float = 1e-5,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.activation = heads, ACTIVATIONS[activation]
        self.norm1 = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps)
        self.expand = nn.Linear(width, hidden or 4 * width)
        self.contract = nn.Linear(hidden or 4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: [B, L, D].
            mask: boolean, broadcasts to [B, heads, L, L]; true where the token of a row may look at that of a column.
        """
        B, L, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        seen = attend(q.contiguous(), k.contiguous(), v.contiguous(), mask)
        x = x + self.out(seen.transpose(1, 2).reshape(B, L, D))
        return x + self.contract(self.activation(self.expand(self.norm2(x))))


def looks_at(counts: Tensor, causal: bool) -> Tensor:
    """Which token may look at which, [B, 1, L, L] of counts [B, L].

    Nobody looks at what does not count, except that every token looks at itself: a softmax over nothing is 0/0.

    Args:
        counts: true where a token counts.
        causal: whether a token looks only at itself and those before it, as CLIP's do.
    """
    L = counts.shape[1]
    itself = torch.eye(L, dtype=torch.bool, device=counts.device)
    allowed = counts[:, None, None, :] | itself
    return allowed & torch.ones_like(itself).tril() if causal else allowed


class SpatialTransformer(nn.Module):
    """Positions look at each other, then at a text, then two layers at each, around one shortcut. Chapters 9 and 13.

    Args:
        channels: features of a position: x [B, channels, H, W] → the same shape.
        context_dim: features of a token of the text.
        head_channels: features of one head; None is one head of all of them.
        groups: of the GroupNorm before it; None leaves the normalisation out.

    Source: Rombach et al. 2022, appendix E.2.1, table 12.
    """

    def __init__(self, channels: int, context_dim: int, head_channels: int | None, groups: int | None) -> None:
        super().__init__()
        heads = channels // head_channels if head_channels else 1
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6) if groups else nn.Identity()
        self.enter = nn.Conv2d(channels, channels, 1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.itself = TokenAttention(channels, channels, heads)
        self.text = TokenAttention(channels, context_dim, heads)
        self.expand = nn.Linear(channels, 8 * channels)
        self.contract = nn.Linear(4 * channels, channels)
        self.leave = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: [B, channels, H, W].
            context: [B, L, context_dim] tokens. None is no text: nothing of it is added.
            mask: [B, L], true where a token counts. An example whose tokens all do not count has no text.
        """
        h = self.enter(self.norm(x)).flatten(2).mT
        seen = self.norm1(h)
        h = h + self.itself(seen, seen)
        if context is not None and context.shape[1]:
            h = h + self.text(self.norm2(h), context, mask)
        value, gate = self.expand(self.norm3(h)).chunk(2, dim=-1)
        h = h + self.contract(value * F.gelu(gate))
        return self.leave(h.mT.reshape(x.shape)) + x


class TokenAttention(nn.Module):
    """Tokens [B, N, D] look at those of a context [B, L, context_dim] → [B, N, D] (Vaswani et al. 2017, equation 1)."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(context_dim, width, bias=False)
        self.v = nn.Linear(context_dim, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """An example of which the mask [B, L] lets no token count sees nothing, and nothing is added to it."""
        q, k, v = self._heads(self.q(x)), self._heads(self.k(context)), self._heads(self.v(context))
        if mask is None:
            return self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        some = mask.any(1)[:, None, None]
        seen = attend(q, k, v, (mask[:, None, :] | ~some)[:, None])
        return torch.where(some, self.out(seen.transpose(1, 2).flatten(2)), 0)

    def _heads(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        return x.view(B, N, self.heads, D // self.heads).transpose(1, 2).contiguous()
