"""Estimate a divergence with one gradient."""

from collections.abc import Callable
from itertools import product

import torch


def estimate(
    field: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    signs: torch.Tensor,
) -> torch.Tensor:
    """Return Hutchinson's estimate of the divergence at each row, [N]."""
    # solution
    x = x.detach().requires_grad_(True)
    (pulled,) = torch.autograd.grad(field(x), x, signs)
    return (pulled * signs).sum(1)
    # end solution


def check(estimate):
    x = torch.randn(
        5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    weights = torch.tensor(
        [[1.0, 2, 0], [0, -1, 1], [3, 0, 0.5]], dtype=torch.float64
    )

    def field(x):
        return torch.sin(x @ weights)

    calls, grad = [], torch.autograd.grad

    def counted(*given, **options):
        calls.append(1)
        return grad(*given, **options)

    found = []
    torch.autograd.grad = counted
    try:
        for e in product((-1.0, 1.0), repeat=3):
            signs = torch.tensor(e, dtype=torch.float64).expand(5, 3)
            found.append(estimate(field, x, signs))
    finally:
        torch.autograd.grad = grad
    assert found[0].shape == (5,), (
        f"one number for each row, [5], got {tuple(found[0].shape)}"
    )
    exact = (torch.cos(x @ weights) * weights.diagonal()).sum(1)
    mean = torch.stack(found).mean(0)
    assert torch.allclose(mean, exact), (
        f"over all signs the mean must be the divergence {exact.tolist()}, got {mean.tolist()}"
    )
    assert len(calls) == 8, (
        f"one gradient for each estimate, got {len(calls) / 8:g}"
    )
