"""DPM-Solver++: exact in the linear part, a polynomial in the rest (Lu et al. 2022b). Derived in chapter 7."""

import math

from torch import Tensor

from diffusion_book._checks import one_of
from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Denoiser
from diffusion_book.samplers.common import Callback, Step, check_generator, combine, denoise_at, walk
from diffusion_book.samplers.grids import Times
from diffusion_book.schedules import Schedule


def dpm_solver(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    *,
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

    Returns:
        x_0 [B, …], without noise.

    Raises:
        ValueError: order is another; eta is negative, infinite, or above 0 without a generator.

    Source: Lu et al. 2022b, algorithm 2 for order 2; the SDE form is that of diffusers and k-diffusion. For order 3 the
    authors' code and its descendants take half of the parabola's curvature, which makes them second-order; here it is
    taken whole, and the test on an exact ODE finds order 3.
    """
    one_of("order", order, (1, 2, 3))
    _check_eta(eta, generator)
    x0_hats: list[Tensor] = []  # newest first
    lengths: list[float] = []  # in ℓ, of the steps from all but the newest of them
    for m in walk(schedule, times):
        x0_hat = denoise_at(denoiser, xt, m)
        x0_hats = [x0_hat, *x0_hats[: order - 1]]
        shrink = m.sigma_s / m.sigma_t  # e^−h, 0 at the last step and at a first one from a = 0
        h = -math.log(shrink) if shrink > 0 else math.inf
        weights = _weights(h, lengths if shrink > 0 else [], eta)
        keep = (m.b_s / m.b_t) * shrink**eta
        xt = combine(keep, xt, *[(m.a_s * weight, x) for weight, x in zip(weights, x0_hats)])
        if generator is not None and eta > 0 and m.s > 0:
            xt = xt + m.b_s * math.sqrt(1 - shrink ** (2 * eta)) * randn_like(xt, generator)
        lengths = [h, *lengths][: order - 1]  # from a = 0 the length is ∞, and the weight 0
        if callback is not None:
            callback(Step(m.t, m.s, xt, x0_hat))
    return xt


def _check_eta(eta: float, generator: Generators | None) -> None:
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta must be finite and not negative (0 is the ODE, 1 the SDE), got {eta}")
    check_generator("eta", eta, generator)


def _weights(h: float, lengths: list[float], eta: float) -> list[float]:
    """Of the latest x̂0, newest first: k ∫ e^{−k(h−u)} p(u) du from 0 to h, for the polynomial p through them.

    Here k = 1 + η, u is how far ℓ has come in this step, and `lengths` are those of the steps before it.
    """
    kh = (1 + eta) * h
    m_0 = -math.expm1(-kh)  # the integral of p = 1
    if not lengths:
        return [m_0]
    r_1 = lengths[0] / h
    if len(lengths) == 1:
        c = 0.5 * m_0 / r_1  # ½ m_0 for m_1, as the paper has it: the difference is of higher order
        return [m_0 + c, -c]
    m_1 = 1 - m_0 / kh  # of p = u/h
    m_2 = 1 - 2 * m_1 / kh  # of p = (u/h)²
    r_2 = lengths[1] / h
    # Newton: p = x̂0 + d_01 u/h + bend (u/h)(u/h + r_1), d_01 = (x̂0 − x̂0_1)/r_1 and bend = (d_01 − d_12)/(r_1 + r_2)
    bend = (m_2 + r_1 * m_1) / (r_1 + r_2)
    c_01, c_12 = (m_1 + bend) / r_1, -bend / r_2
    return [m_0 + c_01, c_12 - c_01, -c_12]
