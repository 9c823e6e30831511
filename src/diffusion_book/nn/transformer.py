"""The transformer: tokens that look at each other, layer by layer (Vaswani et al. 2017). Chapter 9.

The normalisation stands before each part and not after it, as in all that was trained since GPT-2. Shapes: tokens
[B, L, D], masks [B, L].
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book.nn.attention import attend

Activation = Literal["gelu", "quick_gelu"]


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), which CLIP takes for GELU (Hendrycks and Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class TransformerBlock(nn.Module):
    """Attention, then two layers at each token, both around a shortcut: [B, L, D] → [B, L, D]. Chapter 9.

    Args:
        width: D. heads: of the attention; they divide D.
        activation: between the two layers, of which the first has four times as many features.
        eps: of the normalisations.
    """

    def __init__(self, width: int, heads: int, activation: Activation = "gelu", eps: float = 1e-5) -> None:
        super().__init__()
        self.heads, self.activation = heads, ACTIVATIONS[activation]
        self.norm1 = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

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
