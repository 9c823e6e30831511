"""A schedule from a wish for its log-SNR."""

from decimal import Decimal, localcontext
from itertools import pairwise

import torch
from torch.nn.functional import logsigmoid


def beta_from_log_snr(log_snr: torch.Tensor) -> torch.Tensor:
    """Return β_1 … β_T of the variance-preserving schedule with the log-SNRs λ_1 > … > λ_T, in float64."""
    # solution
    log_alpha_bar = logsigmoid(log_snr)
    return -torch.expm1(
        torch.diff(log_alpha_bar, prepend=log_alpha_bar.new_zeros(1))
    )
    # end solution


def check(beta_from_log_snr):
    log_snr = torch.linspace(40, -20, 25, dtype=torch.float64)
    beta = beta_from_log_snr(log_snr)
    assert beta.shape == log_snr.shape, (
        "give one β for each λ: the first step leads from ᾱ_0 = 1 to ᾱ_1"
    )
    with localcontext() as context:
        context.prec = 50
        alpha_bar = [Decimal(1)] + [
            1 / (1 + (-Decimal(value)).exp()) for value in log_snr.tolist()
        ]
        exact = [float(1 - now / before) for before, now in pairwise(alpha_bar)]
    error = (beta / torch.tensor(exact, dtype=torch.float64) - 1).abs()
    worst = int(error.argmax())
    assert error.max() < 1e-9, (
        f"β_{worst + 1} is wrong by a factor of {float(beta[worst]) / exact[worst]:.6g} (λ = {log_snr[worst]:g})"
    )
