"""A schedule from a wish for its log-SNR."""

from decimal import Decimal, localcontext
from itertools import pairwise

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
    log_snr = torch.linspace(40, -20, 25, dtype=torch.float64)
    beta = beta_from_log_snr(log_snr)
    assert beta.shape == log_snr.shape, (
        "one β for each λ, from ᾱ_0 = 1 to ᾱ_1 first"
    )
    with localcontext() as context:
        context.prec = 50
        lambdas = [Decimal(value) for value in log_snr.tolist()]
        alpha_bar = [Decimal(1), *(1 / (1 + (-value).exp()) for value in lambdas)]
        exact = [float(1 - now / before) for before, now in pairwise(alpha_bar)]
    ratio = beta / torch.tensor(exact, dtype=torch.float64)
    worst = int((ratio - 1).abs().argmax())
    wrong = f"β_{worst + 1} is wrong by the factor {ratio[worst]:.6g}"
    assert abs(ratio[worst] - 1) < 1e-9, f"{wrong} (λ = {log_snr[worst]:g})"
