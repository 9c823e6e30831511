"""Give the smallest possible loss on Gaussian data for three targets."""

import torch


def gaussian_floor(prediction: str, a: float, b: float, tau: float) -> float:
    """Return the loss of the best prediction of "eps", "x0" or "v".

    It is made from x_t = a x_0 + b ε, where x_0 ~ N(0, τ²) and
    ε ~ N(0, 1) are independent and a² + b² = 1.
    """
    # solution
    variance = a**2 * tau**2 + b**2
    eps, x0 = a**2 * tau**2 / variance, b**2 * tau**2 / variance
    return {"eps": eps, "x0": x0, "v": eps + x0}[prediction]
    # end solution


def check(gaussian_floor):
    g = torch.Generator().manual_seed(0)
    n = 200_000
    for a, tau in ((0.6, 1.0), (0.995, 0.5), (0.1, 2.0), (0.8, 0.1)):
        b = (1 - a**2) ** 0.5
        x0 = tau * torch.randn(n, generator=g, dtype=torch.float64)
        eps = torch.randn(n, generator=g, dtype=torch.float64)
        xt = a * x0 + b * eps
        targets = {"eps": eps, "x0": x0, "v": a * eps - b * x0}
        for name, y in targets.items():
            slope = (y * xt).sum() / (xt * xt).sum()  # fit a line
            measured = ((y - slope * xt) ** 2).mean()
            error = measured * (2 / n) ** 0.5
            got = gaussian_floor(name, a, b, tau)
            where = f"{name} at a = {a}, τ = {tau}"
            told = f"{where}: a fit reaches {measured:.4f}, not {got:.4f}"
            assert abs(got - measured) < 5 * error, told
    early = gaussian_floor("eps", 0.99995, 1e-2, 1.0)
    late = gaussian_floor("eps", 6.3e-3, 0.99998, 1.0)
    assert early > 0.99, "with almost no noise the ε-loss is near 1"
    assert late < 1e-4, "where x_t is nearly all noise it is near 0"
