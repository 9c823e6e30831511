"""The weight of a squared miss of ε in the bound, at every time and for both variances."""

import torch


def noise_weights(beta: torch.Tensor, variance: str) -> torch.Tensor:
    """Return the weights at t = 1 … T from β_1 … β_T; variance is "posterior" or "beta"."""
    # solution
    alpha_bar = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones_like(beta[:1]), alpha_bar[:-1]])
    tilde = beta * (1 - before) / (1 - alpha_bar)
    var = (tilde if variance == "posterior" else beta).clone()
    var[0] = beta[0]
    return beta**2 / (2 * var * (1 - beta) * (1 - alpha_bar))
    # end solution


def check(noise_weights):
    from diffusion_book import predictions, process, schedules
    from torch.distributions import Normal, kl_divergence

    schedule = schedules.cosine(12)
    beta = schedule.beta[1:]
    found = {name: noise_weights(beta, name) for name in ("posterior", "beta")}
    for name, weights in found.items():
        assert weights.shape == (12,), "one weight for each of t = 1 … T"
        assert bool(torch.isfinite(weights).all()), (
            f"{name}: not finite; at t = 1 the posterior's variance is zero"
        )
    xt, eps, eps_hat = (
        torch.tensor([[value]], dtype=torch.float64) for value in (0.3, -0.8, 0.4)
    )
    for t in (2, 3, 12):
        x0, x0_hat = (
            predictions.to_x0("eps", e, schedule, xt, t) for e in (eps, eps_hat)
        )
        true, model = (process.posterior(schedule, xt, x, t) for x in (x0, x0_hat))
        for name, std in [("posterior", true.std), ("beta", beta[t - 1].sqrt())]:
            # Two Gaussians of one width: what their means add to the divergence.
            kl = kl_divergence(Normal(true.mean, std), Normal(model.mean, std))
            expected = float(kl / (eps - eps_hat) ** 2)
            assert abs(float(found[name][t - 1]) / expected - 1) < 1e-9, (
                f"{name}: the weight at t = {t} should be {expected:.6f}"
            )
    for name, weights in found.items():
        expected = float(0.5 / (1 - beta[0]))
        assert abs(float(weights[0]) / expected - 1) < 1e-9, (
            f"{name}: the weight at t = 1 should be {expected:.6f}, that of L_0"
        )
