"""Read the order of a method off its errors."""

import math

import torch


def order(counts: list[int], errors: list[float]) -> float:
    """Return p of the best fit errors ≈ C · counts^−p."""
    # solution
    x = torch.tensor(counts, dtype=torch.float64).log()
    y = -torch.tensor(errors, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())
    # end solution


def check(order):
    counts = [10, 20, 40, 80]
    for p in (1, 2, 3.5):
        for factor in (1.0, 7.0):
            found = order(counts, [factor * n**-p for n in counts])
            assert abs(found - p) < 1e-9, (
                f"for errors {factor} · n^−{p} the order is {p}, got {found}"
            )
    errors = []
    for n in (200, 400, 800):  # Euler on dy/dσ = yσ/(σ² + 1), from σ = 2 to 0
        y, h = 5**0.5, 2 / n
        for k in range(n):
            sigma = 2 - k * h
            y -= h * y * sigma / (sigma**2 + 1)
        errors.append(abs(y - 1))
    found = order([200, 400, 800], errors)
    assert math.isclose(found, 1, abs_tol=0.05), f"Euler's order is 1, got {found}"
