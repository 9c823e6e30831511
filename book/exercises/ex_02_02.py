"""Jump from any time to any later time."""

import torch


def jump_from(
    xs: torch.Tensor, s: int, t: int, alpha_bar: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """Return a sample of q(x_t | x_s) made with the noise eps; alpha_bar[t] is ᾱ_t, and 0 ≤ s ≤ t."""
    # solution
    kept = alpha_bar[t] / alpha_bar[s]
    return kept.sqrt() * xs + (1 - kept).sqrt() * eps
    # end solution


def check(jump_from):
    beta = torch.linspace(0.01, 0.2, 30, dtype=torch.float64)
    alpha_bar = torch.cat(
        [torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)]
    )
    one, zero = (
        torch.ones(3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
    )

    def coefficients(s, t):
        return jump_from(one, s, t, alpha_bar, zero)[0], jump_from(
            zero, s, t, alpha_bar, one
        )[0]

    a, b = coefficients(0, 30)
    assert torch.allclose(a**2, alpha_bar[30]), (
        "from s = 0 it must be the closed form of the chapter"
    )
    assert torch.allclose(b**2, 1 - alpha_bar[30]), (
        "from s = 0 it must be the closed form of the chapter"
    )
    assert torch.equal(
        torch.stack(coefficients(12, 12)), torch.tensor([1.0, 0.0]).double()
    ), "s = t changes nothing"
    a, b = coefficients(4, 5)
    assert torch.allclose(b**2, beta[4]), "a jump over one step must be that step"
    for s, r, t in [(0, 9, 30), (5, 6, 20), (10, 20, 30)]:
        (a1, b1), (a2, b2), (a, b) = (
            coefficients(s, r),
            coefficients(r, t),
            coefficients(s, t),
        )
        assert torch.allclose(a1 * a2, a), "two jumps must shrink like one"
        assert torch.allclose((a2 * b1) ** 2 + b2**2, b**2), (
            "two jumps must add as much noise as one"
        )
