"""One step of the reverse SDE, with any degree of noise."""

import math

import torch


def reverse_step(
    x: torch.Tensor,
    score: torch.Tensor,
    f: float,
    g2: float,
    dt: float,
    eta: float,
    z: torch.Tensor,
) -> torch.Tensor:
    """Return x a time dt > 0 nearer to the data."""
    # solution
    drift = f * x - 0.5 * (1 + eta**2) * g2 * score
    return x - drift * dt + eta * math.sqrt(g2 * dt) * z
    # end solution


def check(reverse_step):
    one = torch.ones(1, dtype=torch.float64)
    found = reverse_step(2 * one, -3 * one, -0.5, 2.0, 0.1, 1.0, 0 * one).item()
    assert math.isclose(found, 2 - 0.1 * (-1 + 6)), (
        f"with η = 1 the drift is f x − g² score = 5, so 2 becomes 1.5; got {found:.3f}"
    )
    generator = torch.Generator().manual_seed(0)
    beta, steps, n = 8.0, 400, 20_000
    for eta in (0.0, 1.0, 1.5):
        x = torch.randn(n, generator=generator, dtype=torch.float64)
        for k in range(steps, 0, -1):
            a = math.exp(-0.5 * beta * k / steps)
            variance = 0.25 * a**2 + 1 - a**2
            z = torch.randn(n, generator=generator, dtype=torch.float64)
            score = -(x - 2 * a) / variance  # of N(2, ½²), noised
            x = reverse_step(x, score, -0.5 * beta, beta, 1 / steps, eta, z)
        mean, std = x.mean().item(), x.std().item()
        assert max(abs(mean - 2), abs(std - 0.5)) < 0.05, (
            f"data N(2, ½²) must come back with η = {eta}; got mean {mean:.2f}, deviation {std:.2f}"
        )
