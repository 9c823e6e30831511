"""Ancestral sampling (Ho et al. 2020, algorithm 2). Derived in chapter 3, built in chapter 6."""

from typing import Literal, get_args

from torch import Tensor

from diffusion_book._checks import one_of
from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Answer, Denoiser, v_of
from diffusion_book.process import learned_std, step_coefficients
from diffusion_book.samplers.common import Callback, Move, Step, batch_of_times, check_estimate, combine, walk
from diffusion_book.samplers.grids import Times
from diffusion_book.schedules import Schedule

Variance = Literal["small", "large", "learned"]


def ddpm(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    *,
    variance: Variance = "small",
    generator: Generators,
    callback: Callback | None = None,
) -> Tensor:
    """Walk back from x_t to data, drawing each x_s from q(x_s | x_t, x̂0).

    Args:
        denoiser: (x_t, t) → x̂0; for a learned variance `denoise.from_network(…, learned_variance=True)`.
        xt: [B, …] the start, at times[0]: `start_noise(shape, generator)` when that is T.
        times: falling times that end in 0; `uniform_times(schedule, T)` visits every step, fewer skip.
        variance: "small" is the posterior's variance (right for data at one point), "large" is that of the forward
            step, β_{t|s} (right for data that is white noise): chapter 3 shows both bounds. "learned" is the
            network's own, between the two (Nichol and Dhariwal 2021, section 3.1).
        generator: the source of every random number of the walk; or one for each example.
        callback: told of each step, for pictures of the way.

    Returns:
        x_0 [B, …], without noise: the last step returns x̂0 itself.

    Raises:
        ValueError: variance is another; or it is "learned" and the denoiser says none.
    """
    one_of("variance", variance, get_args(Variance))
    for m in walk(schedule, times):
        answer = denoiser(xt, batch_of_times(xt, m.t))
        x0_hat = check_estimate(answer, xt, m.t, m)
        xs = combine(m.c_t, xt, (m.c_0, x0_hat))
        if m.s > 0:
            xs = xs + _std(variance, schedule, answer, xt, m) * randn_like(xt, generator)
        xt = xs
        if callback is not None:
            callback(Step(m.t, m.s, xt, x0_hat))
    return xt


def _std(variance: Variance, schedule: Schedule, answer: Answer, xt: Tensor, m: Move) -> Tensor | float:
    if variance == "small":
        return m.std
    if variance == "large":
        return float(step_coefficients(schedule, m.t, m.s)[1])
    if (v := v_of(answer)) is None:
        raise ValueError("variance='learned' needs v: make it with denoise.from_network(…, learned_variance=True)")
    check_estimate(v, xt, m.t, m, "v")
    return learned_std(schedule, v, m.t, m.s)
