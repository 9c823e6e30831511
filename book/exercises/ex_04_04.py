"""Times drawn by weight, in the place of weights."""

import torch


def draw_by_weight(weight: torch.Tensor, n: int, generator: torch.Generator):
    """Return times [n] from 1 … T and one factor that makes up for drawing them unevenly."""
    # solution
    t = 1 + torch.multinomial(weight, n, replacement=True, generator=generator)
    return t, weight.mean()
    # end solution


def check(draw_by_weight):
    generator = torch.Generator().manual_seed(0)
    weight = torch.tensor([8.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    loss = torch.tensor([0.3, 5.0, 99.0, 1.0], dtype=torch.float64)
    t, factor = draw_by_weight(weight, 40_000, generator)
    assert t.shape == (40_000,), (
        f"expected 40,000 times, got shape {tuple(t.shape)}"
    )
    within = bool(((t >= 1) & (t <= 4)).all())
    assert within, "times are 1 … T, not 0 … T − 1"
    assert not bool((t == 3).any()), "a time of weight zero must never be drawn"
    estimate = float(factor) * loss[t - 1]
    wanted = float((weight * loss).mean())
    error = float(estimate.std()) / 200
    assert abs(float(estimate.mean()) - wanted) < 4 * error, (
        f"the mean should be {wanted:.3f}, got {float(estimate.mean()):.3f} ± {error:.3f}"
    )
