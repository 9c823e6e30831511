"""Find how much of each step an exponential moving average with warm-up remembers."""

import math

import torch


def memory(decay: float, n: int) -> torch.Tensor:
    """Return [n + 1] float64: the shares of w_0 and of w_1 … w_n in the average after n updates.

    Update number k = 1 … n is w̄ ← d w̄ + (1 − d) w_k with d = min(decay, k / (9 + k)).
    """
    # solution
    k = torch.arange(1, n + 1, dtype=torch.float64)
    d = (k / (9 + k)).clamp(max=decay)
    tails = torch.cat(
        [d.flip(0).cumprod(0).flip(0), torch.ones(1, dtype=torch.float64)]
    )  # ∏ of d_k … d_n
    return torch.cat([tails[:1], (1 - d) * tails[1:]])
    # end solution


def check(memory):
    shares = memory(0.999, 900)
    assert shares.shape == (901,), (
        f"one share for the start and one for each step, got shape {tuple(shares.shape)}"
    )
    assert abs(float(shares.sum()) - 1) < 1e-9, (
        f"the shares must sum to one, got {float(shares.sum())}"
    )
    assert math.isclose(float(shares[0]), 1 / math.comb(909, 9), rel_tol=1e-6), (
        "the start's share is 1/C(n + 9, 9)"
    )
    decay, n = 0.7, 40
    average = torch.eye(n + 1, dtype=torch.float64)[
        0
    ]  # follow each w_k as a coordinate of its own
    for k in range(1, n + 1):
        d = min(decay, k / (9 + k))
        average = d * average
        average[k] += 1 - d
    assert torch.allclose(memory(decay, n), average), (
        "a simulation of the updates gives other shares"
    )
