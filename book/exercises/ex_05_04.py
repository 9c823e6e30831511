"""A shift in time is a rotation of the waves."""

import torch


def shift(gamma: torch.Tensor, delta: float) -> torch.Tensor:
    """Turn the waves of t, [B, n], cosines first, into those of t + delta."""
    # solution
    half = gamma.shape[1] // 2
    omega = 10_000.0 ** -(torch.arange(half, dtype=gamma.dtype) / half)
    cos, sin = gamma[:, :half], gamma[:, half:]
    c, s = torch.cos(omega * delta), torch.sin(omega * delta)
    return torch.cat([cos * c - sin * s, sin * c + cos * s], dim=1)
    # end solution


def check(shift):
    from diffusion_book.nn import timestep_embedding

    t = torch.tensor([0.0, 3.0, 250.5, 700.0], dtype=torch.float64)
    for delta in (1.0, -2.5, 100.0):
        expected = timestep_embedding(t + delta, 16, dtype=torch.float64)
        turned = shift(timestep_embedding(t, 16, dtype=torch.float64), delta)
        assert torch.allclose(turned, expected, atol=1e-6), (
            f"these are not the waves of t + {delta}"
        )
