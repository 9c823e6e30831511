"""Three ways to make two noisy images, and what the two have to do with each other."""

import torch


def covariances(ab_s: float, ab_t: float) -> tuple[float, float, float]:
    """Return Cov(x_s, x_t | x_0) from ᾱ_s > ᾱ_t, as s < t.

    For the chain, for two independent noises, and for one shared noise.
    """
    # solution
    b2_s, b2_t = 1 - ab_s, 1 - ab_t
    return (ab_t / ab_s) ** 0.5 * b2_s, 0.0, (b2_s * b2_t) ** 0.5
    # end solution


def check(covariances):
    generator = torch.Generator().manual_seed(0)
    beta, n = torch.full((12,), 0.1, dtype=torch.float64), 100_000
    x, seen = torch.zeros(n, dtype=torch.float64), []
    for beta_t in beta:  # x_0 = 0: given x_0, the mean does not matter
        eps = torch.randn(n, generator=generator, dtype=torch.float64)
        x = (1 - beta_t).sqrt() * x + beta_t.sqrt() * eps
        seen.append(x)
    for s, t in [(1, 12), (4, 9), (11, 12)]:
        ab_s, ab_t = 0.9**s, 0.9**t
        chain, independent, shared = covariances(ab_s, ab_t)
        product = seen[s - 1] * seen[t - 1]
        error = product.std().item() / n**0.5
        simulated = f"for s = {s}, t = {t} the chain has {product.mean():.4f}"
        assert abs(product.mean() - chain) < 5 * error, (
            f"{simulated}, got {chain:.4f}"
        )
        assert independent == 0, "independent noises have no covariance"
        eps = torch.randn(n, generator=generator, dtype=torch.float64)
        product = (1 - ab_s) ** 0.5 * eps * (1 - ab_t) ** 0.5 * eps
        error = product.std().item() / n**0.5
        wrong = f"one shared noise gives {product.mean():.4f}, got {shared:.4f}"
        assert abs(product.mean() - shared) < 5 * error, wrong
