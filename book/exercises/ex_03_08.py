"""The weights of the variational bound on the squared error of the noise."""

import torch


def noise_weights(alpha_bar: torch.Tensor) -> torch.Tensor:
    """Return w_2 … w_T with L_{t−1} = w_t ‖ε − ε̂‖², from ᾱ_0 … ᾱ_T (ᾱ_0 = 1)."""
    # solution
    snr = alpha_bar[1:] / (1 - alpha_bar[1:])
    return 0.5 * (snr[:-1] / snr[1:] - 1)
    # end solution


def check(noise_weights):
    from diffusion_book import predictions, process, schedules
    from torch.distributions import Normal, kl_divergence

    schedule = schedules.cosine(20)
    weights = noise_weights(schedule.alpha_bar)
    assert weights.shape == (19,), "one weight for each of t = 2 … T"
    assert bool(torch.isfinite(weights).all()), (
        "ᾱ_0 = 1 has no finite SNR; the weights do not need it"
    )
    xt, eps, eps_hat = (
        torch.tensor([[value]], dtype=torch.float64) for value in (0.3, -0.8, 0.4)
    )
    for t in (2, 3, 10, 20):
        x0, x0_hat = (
            predictions.to_x0("eps", e, schedule, xt, t) for e in (eps, eps_hat)
        )
        q, p = (
            Normal(*process.posterior(schedule, xt, x, t)) for x in (x0, x0_hat)
        )
        expected = kl_divergence(q, p).squeeze()
        found = weights[t - 2] * (eps - eps_hat).square().squeeze()
        assert torch.allclose(found, expected), (
            f"at t = {t} the weight gives {found:.4g}, the KL is {expected:.4g}"
        )
