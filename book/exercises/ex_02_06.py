"""A schedule from a wish for its log-SNR."""

import torch
from torch.nn.functional import logsigmoid


def beta_from_log_snr(log_snr: torch.Tensor) -> torch.Tensor:
    """Return β_1 … β_T of the schedule with log-SNR λ_1 > … > λ_T, in float64."""
    # solution
    log_alpha_bar = logsigmoid(log_snr)
    change = torch.diff(log_alpha_bar, prepend=log_alpha_bar.new_zeros(1))
    return -torch.expm1(change)
    # end solution


def check(beta_from_log_snr):
    wishes = [
        torch.linspace(10, -20, 25, dtype=torch.float64),
        4 - torch.linspace(0, 3, 40, dtype=torch.float64) ** 2,
    ]
    for log_snr in wishes:
        beta = beta_from_log_snr(log_snr)
        assert beta.shape == log_snr.shape, (
            "one β for each λ, from ᾱ_0 = 1 to ᾱ_1 first"
        )
        signal, noise = 1.0, 0.0  # variances, by walking the chain
        for t, beta_t in enumerate(beta, 1):
            signal, noise = (1 - beta_t) * signal, (1 - beta_t) * noise + beta_t
            got = (signal / noise).log()
            wrong = f"after step {t} the chain has λ = {got:.4f}, wanted {log_snr[t - 1]:.4f}"
            assert abs(got - log_snr[t - 1]) < 1e-6, wrong
