"""How small must ᾱ_T be, so that the brightness of an image does not leak?"""

import torch


def largest_alpha_bar(rho: float, tau: float, D: int) -> float:
    """Return the ᾱ_T at which the means of x_T and x_0 have correlation rho.

    tau is the standard deviation of an image's mean over the data, D its values.
    """
    # solution
    return rho**2 / (D * tau**2 * (1 - rho**2) + rho**2)
    # end solution


def check(largest_alpha_bar):
    generator = torch.Generator().manual_seed(0)
    n, D, rho, tau = 20_000, 4, 0.5, 0.3  # a tiny image: every term matters
    alpha_bar = torch.tensor(largest_alpha_bar(rho, tau, D))
    assert 0 < alpha_bar < 1, f"ᾱ_T lies between 0 and 1, got {alpha_bar:.3g}"
    x0 = tau * torch.randn(n, 1, generator=generator).expand(n, D)
    eps = torch.randn(n, D, generator=generator)
    xT = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    measured = torch.corrcoef(torch.stack([x0.mean(1), xT.mean(1)]))[0, 1].item()
    error = (1 - rho**2) / n**0.5
    simulated = f"simulated {measured:.3f} ± {error:.3f}"
    assert abs(measured - rho) < 5 * error, f"asked for ρ = {rho}, {simulated}"
    small, large = [largest_alpha_bar(0.1, 0.4, side**2) for side in (32, 512)]
    assert large < small, "larger images need a darker end"
