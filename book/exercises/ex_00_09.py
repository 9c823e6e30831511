"""A gradient from values alone."""

from collections.abc import Callable

import torch


def numerical_gradient(
    f: Callable, x: torch.Tensor, h: float = 1e-5
) -> torch.Tensor:
    """Return the gradient of f, from [D] to a number, at x: [D]."""
    # solution
    steps = h * torch.eye(len(x), dtype=x.dtype)
    return torch.stack([(f(x + step) - f(x - step)) / (2 * h) for step in steps])
    # end solution


def check(numerical_gradient):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, generator=generator, dtype=torch.float64)

    def f(x):
        return (x[0] * x[1]).sin() + x[2] ** 3 - 2 * x[3]

    before = x.clone()
    got = numerical_gradient(f, x)
    assert torch.equal(x, before), "leave x as it was"
    assert got.shape == x.shape, "give one slope for each entry of x"
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(f(leaf), leaf)
    assert torch.allclose(got, wanted, atol=1e-8), (
        f"autodiff finds {wanted.tolist()}, got {got.tolist()}"
    )
    coarse = numerical_gradient(lambda x: x[0] ** 3, torch.zeros(1).double(), 0.1)
    assert abs(coarse.item() - 0.01) < 1e-9, (
        "take a step to both sides: for x³ at 0 that gives exactly h²"
    )
