"""The chain of the chapter, divided by √ᾱ, is a walk without shrink."""

import torch


def growing_steps(beta: torch.Tensor) -> torch.Tensor:
    """Return the steps g_1 … g_T of x_t / √ᾱ_t, from β_1 … β_T."""
    # solution
    alpha_bar = (1 - beta).cumprod(0)
    return (beta / alpha_bar).sqrt()
    # end solution


def check(growing_steps):
    generator = torch.Generator().manual_seed(0)
    beta = 0.3 * torch.rand(50, generator=generator, dtype=torch.float64) + 0.01
    steps = growing_steps(beta)
    assert steps.shape == beta.shape, "give one size for each β"
    # Walk the chain from x_0 = 0 with noise at one step only, then divide by √ᾱ_T.
    for s in (0, 7, 49):
        x, scale = 0.0, 1.0
        for t in range(50):
            x = (1 - beta[t]).sqrt() * x + beta[t].sqrt() * float(t == s)
            scale = (1 - beta[t]).sqrt() * scale
        wrong = f"the noise of step {s + 1} arrives with another size"
        assert torch.allclose(x / scale, steps[s]), wrong
