"""Attention over the positions of a feature map: to each other, and to the words of a text. Chapters 5 and 9."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book.nn.blocks import zero_init


class SelfAttention(nn.Module):
    """Every position looks at every other (Vaswani et al. 2017, equation 1), around a shortcut. Chapter 5.

    Args:
        channels: features of a position, in and out: x [B, channels, H, W] → the same shape.
        head_channels: features of one head; None is one head of all of them.
        groups: of the GroupNorm before it; None leaves the normalisation out.
        eps: of the GroupNorm.
    """

    def __init__(self, channels: int, head_channels: int | None, groups: int | None, eps: float = 1e-5) -> None:
        super().__init__()
        self.heads = channels // head_channels if head_channels else 1
        self.norm = nn.GroupNorm(groups, channels, eps) if groups else nn.Identity()
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, *text: Tensor | None) -> Tensor:
        """x, and perhaps a text as `CrossAttention` takes it, which is not looked at."""
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, self.heads, C // self.heads, H * W)
        q, k, v = qkv.mT.contiguous().unbind(1)  # each [B, heads, H·W, C/heads]
        return self.out(attend(q, k, v).mT.reshape(B, C, H, W)).add_(x)


class CrossAttention(nn.Module):
    """Every position looks at every token of a text (Rombach et al. 2022, section 3.3), around a shortcut. Chapter 9.

    The queries come from the picture, keys and values from the text, so the text may be of any length.

    Args:
        channels: features of a position: x [B, channels, H, W] → the same shape.
        context_dim: features of a token.
        head_channels, groups, eps: as for `SelfAttention`.
    """

    def __init__(
        self, channels: int, context_dim: int, head_channels: int | None, groups: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.heads = channels // head_channels if head_channels else 1
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.q = nn.Conv2d(channels, channels, 1)
        self.kv = nn.Linear(context_dim, 2 * channels)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: [B, channels, H, W].
            context: [B, L, context_dim] tokens. None, or L = 0, is no text: nothing is attended to.
            mask: [B, L], true where a token counts. An example whose tokens all do not count has no text.
        """
        B, C, H, W = x.shape
        if context is None or context.shape[1] == 0:
            return x + self.out(torch.zeros_like(x))
        q = self.q(self.norm(x)).reshape(B, self.heads, C // self.heads, H * W).mT.contiguous()
        k, v = self.kv(context).reshape(B, -1, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if mask is None:
            h = attend(q, k, v)
        else:
            # A softmax over no tokens is 0/0, which some backends answer with NaN: let such an example see all tokens,
            # and take away what it saw.
            some = mask.any(1)[:, None, None, None]
            h = attend(q, k, v, mask[:, None, None, :] | ~some)
            h = torch.where(some, h, 0)
        return self.out(h.mT.reshape(B, C, H, W)).add_(x)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d) v, over the last two dimensions (Vaswani et al. 2017, equation 1). Chapter 5.

    Args:
        q, k, v: [B, heads, N, d] and twice [B, heads, L, d], each contiguous, or torch does not take its fast way.
        mask: boolean, broadcasts to [B, heads, N, L]; true where a query may look.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:  # its gradient is several times slower than in float32
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, mask)
