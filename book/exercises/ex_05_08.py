"""Attention with several heads, from its definition."""

import math

import torch


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int
) -> torch.Tensor:
    """softmax(q kᵀ / √d) v for q [B, N, C] and k, v [B, L, C], by heads → [B, N, C]."""
    # solution
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[3]), dim=3)
    return (weights @ v).transpose(1, 2).flatten(2)
    # end solution


def check(attention):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, n, 12, generator=generator, dtype=torch.float64)
        for n in (5, 7, 7)
    )
    for heads in (1, 3):
        parts = [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
        expected = (
            torch.nn.functional.scaled_dot_product_attention(*parts)
            .transpose(1, 2)
            .flatten(2)
        )
        got = attention(q, k, v, heads)
        assert got.shape == q.shape, (
            f"expected the shape of q, {tuple(q.shape)}, got {tuple(got.shape)}"
        )
        assert torch.allclose(got, expected, atol=1e-10), f"wrong for {heads} heads"
