"""Undo an affine coupling layer, and say how much it stretches."""

from collections.abc import Callable

import torch


def undo(y: torch.Tensor, network: Callable):
    """Return the x [N, 2] that is sent to y, and log|det ∂y/∂x| [N].

    y1 = x1 and y2 = x2 · exp(scale) + shift, where
    scale, shift = network(x1), each [N, 1].
    """
    # solution
    scale, shift = network(y[:, :1])
    x2 = (y[:, 1:] - shift) * torch.exp(-scale)
    return torch.cat([y[:, :1], x2], dim=1), scale[:, 0]
    # end solution


def check(undo):
    def network(x1):
        return torch.sin(3 * x1), x1**2

    def layer(x):
        scale, shift = network(x[:1])
        return torch.cat([x[:1], x[1:] * torch.exp(scale) + shift])

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    y = torch.stack([layer(point) for point in x])
    back, log_det = undo(y, network)
    assert back.shape == (5, 2), (
        f"five points in the plane, not {tuple(back.shape)}"
    )
    assert torch.allclose(back, x), "undoing the layer must give x back"
    assert log_det.shape == (5,), (
        f"one number a point, [5], not {tuple(log_det.shape)}"
    )
    for point, value in zip(x, log_det):
        jacobian = torch.autograd.functional.jacobian(layer, point)
        exact = torch.linalg.slogdet(jacobian).logabsdet
        assert torch.allclose(value, exact), (
            f"the Jacobian's log-determinant is {exact:.4f}, not {value:.4f}"
        )
