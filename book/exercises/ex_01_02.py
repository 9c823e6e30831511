"""Measure how many nats a density misses the truth by, and how sure you are."""

from collections.abc import Callable

import torch


def kl_gap(log_q: Callable, log_p: Callable, x: torch.Tensor):
    """Return an estimate of KL(q ‖ p) in nats, and its standard error.

    x [N, D] are draws of q; log_q and log_p map them to log-densities [N].
    """
    # solution
    gain = log_q(x) - log_p(x)
    return gain.mean().item(), (gain.std() / len(gain) ** 0.5).item()
    # end solution


def check(kl_gap):
    from torch.distributions import MultivariateNormal, kl_divergence

    eye = torch.eye(3, dtype=torch.float64)
    q = MultivariateNormal(torch.zeros_like(eye[0]), eye)
    p = MultivariateNormal(eye[0], 2 * eye)
    torch.manual_seed(0)
    x = q.sample((20_000,))
    exact = kl_divergence(q, p).item()
    value, error = kl_gap(q.log_prob, p.log_prob, x)
    assert abs(value - exact) < 0.05, (
        f"KL(q ‖ p) is {exact:.3f}, you estimate {value:.3f}; "
        "is the average over draws of q, and log q first?"
    )
    gain = q.log_prob(x) - p.log_prob(x)
    expected = gain.std().item() / len(x) ** 0.5
    assert abs(error / expected - 1) < 0.01, (
        "the standard error of a mean is the standard deviation of its terms over √N"
    )
    same, error = kl_gap(q.log_prob, q.log_prob, x)
    assert same == error == 0, "a density misses itself by nothing"
