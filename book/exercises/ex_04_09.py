"""The floor of the loss in ε for data that are two points."""

import torch


def floor_of_two_points(a: float, b: float) -> float:
    """Return E[(ε − E[ε | x_t])²] for x_0 = ±1, in one dimension."""
    # solution
    eps = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    phi = torch.exp(-(eps**2) / 2) / (2 * torch.pi) ** 0.5
    miss = 1 - torch.tanh(a * (a + b * eps) / b**2)  # of x_0 = 1
    return float(torch.trapezoid(phi * miss**2, eps)) * a**2 / b**2
    # end solution


def check(floor_of_two_points):
    from diffusion_book import data

    # The library's exact denoiser on two very narrow blobs, by Monte Carlo.
    narrow = data.GaussianMixture(
        torch.full((2,), 0.5, dtype=torch.float64),
        torch.tensor([[-1.0], [1.0]], dtype=torch.float64),
        torch.full((2, 1, 1), 1e-12, dtype=torch.float64),
    )
    generator = torch.Generator().manual_seed(0)
    x0 = narrow.sample(40_000, generator)
    eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    for alpha_bar in (0.7, 0.4, 0.05):
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        x0_hat = narrow.posterior_mean(a * x0 + b * eps, a, b)
        squares = (a / b * (x0 - x0_hat)) ** 2
        mean, error = float(squares.mean()), float(squares.std()) / 200
        found = floor_of_two_points(a, b)
        assert abs(found - mean) < 4 * error, (
            f"at ᾱ = {alpha_bar} the floor is {mean:.4f} ± {error:.4f}, got {found:.4f}"
        )
        assert found < alpha_bar, (
            "the floor of N(0, 1) is ᾱ; that of two points is lower"
        )
