"""Jump from any time to any later time."""

import torch


def jump_from(xs, s: int, t: int, alpha_bar: torch.Tensor, eps) -> torch.Tensor:
    """Return a sample of q(x_t | x_s), 0 ≤ s ≤ t, made with the noise eps.

    xs and eps are tensors of one shape; alpha_bar[t] is ᾱ_t.
    """
    # solution
    kept = alpha_bar[t] / alpha_bar[s]
    return kept.sqrt() * xs + (1 - kept).sqrt() * eps
    # end solution


def check(jump_from):
    beta = torch.linspace(0.01, 0.2, 30, dtype=torch.float64)
    alpha_bar = torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)])
    one, zero = beta.new_ones(3), beta.new_zeros(3)

    def coefficients(s, t):
        signal = jump_from(one, s, t, alpha_bar, zero)
        noise = jump_from(zero, s, t, alpha_bar, one)
        return signal[0], noise[0]

    a, b = coefficients(0, 30)
    closed_form = torch.allclose(a**2, alpha_bar[30]) and torch.allclose(
        b**2, 1 - a**2
    )
    assert closed_form, "from s = 0 it must be the closed form of the chapter"
    assert coefficients(12, 12) == (1, 0), "s = t changes nothing"
    _, b = coefficients(4, 5)
    assert torch.allclose(b**2, beta[4]), "a jump over one step must be that step"
    for s, r, t in [(0, 9, 30), (5, 6, 20), (10, 20, 30)]:
        (a1, b1), (a2, b2) = coefficients(s, r), coefficients(r, t)
        a, b = coefficients(s, t)
        assert torch.allclose(a1 * a2, a), "two jumps must shrink like one"
        added = (a2 * b1) ** 2 + b2**2
        assert torch.allclose(added, b**2), (
            "two jumps must add as much noise as one"
        )
