"""UniPC: a predictor, and a corrector that costs nothing (Zhao et al. 2023, algorithms 5 to 8). Chapter 7."""

import math

import numpy as np
from torch import Tensor

from diffusion_book._checks import one_of
from diffusion_book.denoise import Denoiser
from diffusion_book.samplers.common import Callback, Move, Step, combine, denoise_at, walk
from diffusion_book.samplers.grids import Times
from diffusion_book.schedules import Schedule


def unipc(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    *,
    order: int = 2,
    callback: Callback | None = None,
) -> Tensor:
    """Predict x_s from the latest x̂0, evaluate there, and use that evaluation twice: to correct x_s, and to go on.

    Predictor and corrector are one formula: x_s = (b_s/b_t) x_t + a_s (1 − e^−h) (x̂0 + Σ_k ρ_k D_k), where the
    D_k = (x̂0_k − x̂0)/r_k are the differences to other x̂0, at the distance r_k h in ℓ = log(a/b), and the ρ_k make
    it exact for polynomials. The predictor looks back only; the corrector has the new x̂0, at r = 1, as well.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0]. times: falling times that end in 0.
        order: of the predictor, 1 to 3; with the corrector the method is of order + 1.
        callback: told of each step, before the next evaluation corrects it.

    Returns:
        x_0 [B, …], without noise.

    Raises:
        ValueError: order is another.

    Source: Zhao et al. 2023, theorem 3.1 and algorithms 5 to 8; the variant B(h) = e^h − 1 ("bh2") on x̂0, as in
    diffusers, with which tests compare.
    """
    one_of("order", order, (1, 2, 3))
    known: list[tuple[Tensor, float]] = []  # the latest x̂0, newest last, each with its ℓ
    last: tuple[Tensor, Move] | None = None  # x at the start of the last step, and that step, for the corrector
    used = 1
    for m in walk(schedule, times):
        x0_hat = denoise_at(denoiser, xt, m)
        ell_t = _ell(m.sigma_t)
        if last is not None and last[1].a_t > 0:
            xt = _step(*last, known[-used:], (x0_hat, ell_t))
        known = [*known[1 - order :], (x0_hat, ell_t)] if order > 1 else [(x0_hat, ell_t)]
        reach = [entry for entry in known if math.isfinite(entry[1])]
        # As diffusers does, the last steps look less far back: the end of the grid is its roughest part.
        used = max(1, min(order, len(reach), m.of - m.number + 1))
        last = xt, m
        xt = _step(xt, m, known[-used:], None)
        if callback is not None:
            callback(Step(m.t, m.s, xt, x0_hat))
    return xt


def _ell(sigma: float) -> float:
    return math.inf if sigma == 0 else -math.log(sigma)


def _step(xt: Tensor, m: Move, known: list[tuple[Tensor, float]], new: tuple[Tensor, float] | None) -> Tensor:
    """x_s from x_t; `known` ends with the x̂0 at t, and `new` is the one at s, which the corrector has."""
    x0_hat, ell_t = known[-1]
    h = _ell(m.sigma_s) - ell_t
    others = known[-2::-1] if new is None else [*known[-2::-1], new]
    weights = _weights([(ell - ell_t) / h for _, ell in others], h) if others else []
    scale = -m.a_s * math.expm1(-h)
    differences = ((scale * weight, other) for weight, (other, _) in zip(weights, others))
    return combine(m.b_s / m.b_t, xt, (scale * (1 - sum(weights)), x0_hat), *differences)


def _weights(r: list[float], h: float) -> list[float]:
    """ρ_k / r_k of each difference, where Σ_k ρ_k r_k^(n−1) = n! φ_{n+1}/φ_1 makes degree n exact, n = 1, 2, …

    Here φ_1 = (1 − e^−h)/h, and φ_{n+1} = (1/n! − φ_n)/h.
    """
    if len(r) == 1:
        return [0.5 / r[0]]  # the limit for small h, which B(h) = e^h − 1 uses; it does not change the order
    phi = first = -math.expm1(-h) / h
    right = []
    for n in range(1, len(r) + 1):
        phi = (1 / math.factorial(n) - phi) / h
        right.append(math.factorial(n) * phi / first)
    powers = [[1.0] * len(r), r, [x * x for x in r]][: len(r)]
    rho = np.linalg.solve(powers, right)
    return [float(value / distance) for value, distance in zip(rho, r)]
