"""Find how much of each step an average with warm-up remembers."""

import math

import torch


def memory(decay: float, n: int) -> torch.Tensor:
    """Return [n + 1] float64: the shares of w_0, w_1, … w_n.

    Update k = 1 … n takes w̄ to d w̄ + (1 − d) w_k, where
    d = min(decay, k / (9 + k)).
    """
    # solution
    k = torch.arange(1, n + 1, dtype=torch.float64)
    d = (k / (9 + k)).clamp(max=decay)
    tails = d.flip(0).cumprod(0).flip(0)  # products of d_k … d_n
    tails = torch.cat([tails, tails.new_ones(1)])
    return torch.cat([tails[:1], (1 - d) * tails[1:]])
    # end solution


def check(memory):
    shares = memory(0.999, 900)
    assert shares.shape == (901,), f"901 shares, not {tuple(shares.shape)}"
    total, start = float(shares.sum()), float(shares[0])
    assert abs(total - 1) < 1e-9, f"shares sum to one, not to {total}"
    right = math.isclose(start, 1 / math.comb(909, 9), rel_tol=1e-6)
    assert right, f"the start's share is 1/C(n + 9, 9), not {start}"
    decay, n = 0.7, 40
    average = torch.eye(n + 1, dtype=torch.float64)[0]
    for k in range(1, n + 1):  # follow each w_k as a coordinate
        d = min(decay, k / (9 + k))
        average = d * average
        average[k] += 1 - d
    same = torch.allclose(memory(decay, n), average)
    assert same, "a simulation of the updates gives other shares"
