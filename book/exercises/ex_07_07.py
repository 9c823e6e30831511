"""DPM-Solver++(2M) with the exact mean of w."""

import math
from itertools import pairwise


def multistep_exact(denoiser, y, sigmas):
    """Walk from y at sigmas[0] to sigmas[-1], with M_1 in the place of ½."""
    # solution
    x0_old = h_old = None
    for sigma_t, sigma_s in pairwise(sigmas):
        x0_hat = target = denoiser(y, sigma_t)
        if sigma_s > 0:
            h = math.log(sigma_t / sigma_s)
            if x0_old is not None:
                m_1 = -1 / math.expm1(-h) - 1 / h
                target = x0_hat + m_1 * h / h_old * (x0_hat - x0_old)
            x0_old, h_old = x0_hat, h
        y = sigma_s / sigma_t * y + (1 - sigma_s / sigma_t) * target
    return y
    # end solution


def check(multistep_exact):
    def pixel(y, sigma):
        return y / (1 + sigma**2)

    errors = []
    for n in (50, 100, 200):
        sigmas = [10 * 0.001 ** (k / n) for k in range(n + 1)]
        truth = math.sqrt((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2))
        errors.append(abs(multistep_exact(pixel, 1.0, sigmas) - truth))
    for coarse, fine in pairwise(errors):
        assert 3.5 < coarse / fine < 4.5, (
            f"half the step must give a quarter of the error, got {errors}"
        )

    def line(y, sigma):  # an answer that is a line in ℓ = −log σ
        return -math.log(sigma)

    y = multistep_exact(line, 0.0, [4.0, 2.0, 0.5])
    # By hand: the first step takes −log 4; the second ∫ e^ℓ ℓ dℓ = e^ℓ (ℓ − 1) from −log 2 to log 2, times σ_s = ½.
    first = 0.5 * -math.log(4)
    log_2 = math.log(2)
    second = 0.25 * first + 0.5 * (2 * (log_2 - 1) - 0.5 * (-log_2 - 1))
    assert math.isclose(y, second, abs_tol=1e-12), (
        "a line in ℓ must be integrated exactly from the second step on"
    )
    assert math.isclose(
        multistep_exact(pixel, 3.0, [2.0, 1.0, 0.0]),
        multistep_exact(pixel, 3.0, [2.0, 1.0]) / 2,
    )
