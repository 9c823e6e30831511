"""Draw a batch's times so that they cover all of time evenly."""

import torch


def spread_times(T: int, B: int, generator: torch.Generator) -> torch.Tensor:
    """Return [B] integer times: one in each of B parts of 1 … T, in any order."""
    # solution
    u = torch.rand(B, generator=generator, dtype=torch.float64)
    part = torch.randperm(B, generator=generator)
    return (T * (part + u) / B).long() + 1
    # end solution


def check(spread_times):
    generator = torch.Generator().manual_seed(0)
    T, B = 1000, 50
    times = torch.stack([spread_times(T, B, generator) for _ in range(2000)])
    assert times.shape == (2000, B), (
        f"expected [B] times, got {tuple(times.shape[1:])}"
    )
    low, high = int(times.min()), int(times.max())
    ends = (low, high) == (1, T)
    assert ends, f"times lie in 1 … {T} with both ends, not in {low} … {high}"
    part = (times - 1) * B // T
    once = torch.equal(part.sort(1).values, torch.arange(B).expand(2000, B))
    assert once, "each of the B parts must get exactly one time"
    first = times[:, 0].double()
    error = 4.5 * T / 12**0.5 / 2000**0.5
    assert abs(first.mean() - (T + 1) / 2) < error, "each example's time is uniform"
    assert first.std() > 0.9 * T / 12**0.5, "the order must be random"
    gap = (part[:, 1] - part[:, 0]) % B
    assert len(gap.unique()) > B // 2, (
        "the order must be random, not only its start"
    )
    uneven = torch.stack([spread_times(10, 4, generator) for _ in range(2000)])
    counts = torch.bincount(uneven.flatten(), minlength=11)[1:].double()
    error = 4.5 * (800 * 0.9) ** 0.5
    assert ((counts - 800).abs() < error).all(), (
        "uniform also where B is no divisor of T"
    )
