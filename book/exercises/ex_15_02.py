"""Fit a score without knowing it: the loss of Hyvärinen."""

from collections.abc import Callable

import torch


def hyvarinen_loss(
    score: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """Return E[tr ∂s/∂x + ½‖s‖²] over [N, D] points."""
    # solution
    x = x.detach().requires_grad_(True)
    s = score(x)
    trace = torch.zeros(len(x), dtype=x.dtype)
    for d in range(x.shape[1]):
        (row,) = torch.autograd.grad(s[:, d].sum(), x, create_graph=True)
        trace = trace + row[:, d]
    return (trace + 0.5 * s.square().sum(1)).mean()
    # end solution


def check(hyvarinen_loss):
    x = torch.randn(
        500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    A = torch.tensor(
        [[-1.0, 0.5, 0.0], [0.0, -2.0, 0.3], [1.0, 0.0, -0.5]], dtype=torch.float64
    )
    found = hyvarinen_loss(lambda x: x @ A.T, x)
    expected = A.trace() + 0.5 * (x @ A.T).square().sum(1).mean()
    assert torch.isclose(found, expected), (
        f"for s = A x it is tr A + ½ E‖A x‖² = {expected:.4f}, got {found.item():.4f}"
    )
    found = hyvarinen_loss(lambda x: -(x**3), x)
    expected = (-3 * x.square() + 0.5 * x**6).sum(1).mean()
    assert torch.isclose(found, expected), (
        "the trace must be taken at each point, not once for all"
    )
    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    wide = 2 * x
    for _ in range(200):
        (slope,) = torch.autograd.grad(
            hyvarinen_loss(lambda x, k=k: -k * x, wide), k
        )
        k = (k - 0.02 * slope).detach().requires_grad_(True)
    best = 1 / wide.square().mean()
    assert abs(k.item() - best.item()) < 1e-3, (
        f"trained with it, the slope must come to 1/E[x²] = {best:.3f}, got {k.item():.3f}"
    )
