"""Euler–Maruyama on the reverse SDE, with any degree of noise (Anderson 1982; Song et al. 2021b). Chapter 15."""

import math

from torch import Tensor

from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Denoiser
from diffusion_book.process import drift_and_diffusion
from diffusion_book.samplers.common import Callback, Step, check_generator, denoise_at, walk
from diffusion_book.samplers.grids import Times
from diffusion_book.schedules import Schedule


def sde(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    *,
    eta: float = 1.0,
    generator: Generators | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Small steps of dx = [f x − ½ (1 + η²) g² score] dt + η g dw, from noise to data.

    Its drift has two parts. The ODE's, f x − ½ g² score, is the mean velocity u = ȧ x̂0 + ḃ ε̂ and carries the density
    from t to s. What is left is a Langevin step, which shakes each example and keeps the density where it is.

    This is the equation as it stands, for reading and for checks: a step is as wrong as it is long, and hundreds are
    needed where `ddim`, `ddpm` and `dpm_solver`, which solve the linear part exactly, take tens.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0]. times: falling times that end in 0; `uniform_times` suit it.
        eta: the degree of noise. 0 is the probability-flow ODE by Euler's method in t, 1 is Anderson's reverse of the
            forward SDE, and above 1 the walk forgets more. All degrees have the same densities, so a step that is too
            long for its noise takes a lower one: the variance of what it draws is η² g² Δt, and at most b². That keeps
            the Langevin step stable, also where a = 0 and g is infinite.
        generator: needed where eta > 0; one, or one for each example.
        callback: told of each step.

    Returns:
        x_0 [B, …]: the last step takes x̂0 itself, without noise.

    Raises:
        ValueError: eta is negative or infinite, or eta > 0 without a generator.

    Source: Song et al. 2021b, equations 6 and 13; Karras et al. 2022, equation 6, for the degrees between.
    """
    _check_eta(eta, generator)
    moves = walk(schedule, times)
    noisy = [m.t for m in moves]
    rates = (numbers.tolist() for numbers in (*schedule.rates(noisy), drift_and_diffusion(schedule, noisy)[1]))
    for m, a_dot, b_dot, g2 in zip(moves, *rates):
        x0_hat = denoise_at(denoiser, xt, m)
        eps_hat = (xt - m.a_t * x0_hat) / m.b_t
        score = -eps_hat / m.b_t
        dt = m.t - m.s
        xs = xt - dt * (a_dot * x0_hat + b_dot * eps_hat)
        if generator is not None and eta > 0 and m.s > 0:
            amount = min(eta**2 * g2 * dt, m.b_t**2)
            xs = xs + 0.5 * amount * score + math.sqrt(amount) * randn_like(xs, generator)
        xt = xs if m.s > 0 else x0_hat
        if callback is not None:
            callback(Step(m.t, m.s, xt, x0_hat))
    return xt


def _check_eta(eta: float, generator: Generators | None) -> None:
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta must be finite and not negative, got {eta}; 0 is the ODE, 1 is Anderson's reverse SDE")
    check_generator("eta", eta, generator)
