"""DPM-Solver++: exact in the linear part, a polynomial in the rest (Lu et al. 2022b). Derived in chapter 7."""

import math

from torch import Tensor

from diffusion_book.denoise import Denoiser
from diffusion_book.process import Generators, randn_like
from diffusion_book.samplers.common import Callback, Step, coefficients, denoise_at, steps_of
from diffusion_book.samplers.grids import Times, check_times
from diffusion_book.schedules import Schedule


def dpm_solver(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    order: int = 2,
    eta: float = 0.0,
    generator: Generators | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++ with 1, 2 ("2M") or 3 ("3M") of the latest x̂0, one new evaluation a step.

    In ℓ = log(a/b), which is half the log-SNR, the probability-flow ODE says that x_s is (b_s/b_t) x_t plus
    b_s ∫ e^ℓ x̂0(ℓ) dℓ from ℓ_t to ℓ_s. Order 1 takes x̂0 to be constant, which is DDIM; order 2 extends the line
    through the last two, order 3 the parabola through the last three. The first steps and the last, to ℓ = ∞, use
    fewer.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0]. times: falling times that end in 0; log-SNR-uniform ones suit it.
        order: 1, 2 or 3.
        eta: 0 for the ODE; 1 for the SDE form, which adds the noise of the reverse SDE.
        generator: needed where eta > 0.
        callback: told of each step.

    Source: Lu et al. 2022b, algorithm 2 for order 2; for order 3 and the SDE form, the multistep formulas of
    k-diffusion (`dpmpp_3m_sde`) and diffusers, with which tests compare.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
    if eta < 0:
        raise ValueError(f"eta must not be negative (0 is the ODE, 1 the SDE), got {eta}")
    if eta > 0 and generator is None:
        raise ValueError("eta > 0 draws noise, so pass a torch.Generator; eta = 0 needs none")
    times = check_times(schedule, times)
    a, b, sigma = coefficients(schedule, times)
    past: list[tuple[Tensor, float]] = []  # the latest x̂0 and the length in ℓ of the step from each to the next
    for i, t, s, where in steps_of(times):
        x0_hat = denoise_at(denoiser, xt, t, where)
        shrink = sigma[i + 1] / sigma[i]  # e^−h, 0 at the last step and at a first one from a = 0
        h = -math.log(shrink) if shrink > 0 else math.inf
        keep = (b[i + 1] / b[i]) * shrink**eta  # of x_t
        take = a[i + 1] * (1 - shrink ** (1 + eta))  # of x̂0
        xs = keep * xt + take * x0_hat
        use = min(order, 1 + len(past)) if math.isfinite(h) else 1
        if use == 2:
            x0_1, h_1 = past[-1]
            xs = xs + (0.5 * take * h / h_1) * (x0_hat - x0_1)
        elif use == 3:
            xs = xs + _third_order(a[i + 1], h, (1 + eta) * h, x0_hat, past)
        if generator is not None and eta > 0 and s > 0:
            xs = xs + b[i + 1] * math.sqrt(1 - shrink ** (2 * eta)) * randn_like(xt, generator)
        past = [*past[-1:], (x0_hat, h)]
        xt = xs
        if callback is not None:
            callback(Step(t, s, xt, x0_hat))
    return xt


def _third_order(a_s: float, h: float, h_eta: float, x0_hat: Tensor, past: list[tuple[Tensor, float]]) -> Tensor:
    """What slope and curvature of x̂0 add, from divided differences of the last three."""
    (x0_2, h_2), (x0_1, h_1) = past
    r_1, r_2 = h_1 / h, h_2 / h
    phi_2 = math.expm1(-h_eta) / h_eta + 1
    phi_3 = phi_2 / h_eta - 0.5
    # slope = d_01 + (d_01 − d_12) r_1/(r_1 + r_2) and bend = (d_01 − d_12)/(r_1 + r_2), collected for each x̂0
    share = (phi_2 * r_1 - phi_3) / (r_1 + r_2)
    c_01, c_12 = a_s * (phi_2 + share) / r_1, -a_s * share / r_2
    return c_01 * x0_hat + (c_12 - c_01) * x0_1 - c_12 * x0_2
