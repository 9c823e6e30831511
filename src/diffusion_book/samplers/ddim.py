"""DDIM: the same marginals with less noise, or none (Song et al. 2021a, equation 12). Chapters 6 and 7.

Two samplers that are known under other names are this one. Euler's method for d(x/a)/dσ = ε̂ (Karras et al. 2022,
algorithm 1 without the correction) is η = 0. The "ancestral" Euler sampler, Euler to a noise level below s and then
noise up to it, is η = 1, which is DDPM's small variance as well; chapter 7 proves it in three lines. `by_name` knows
them as "euler" and "euler_ancestral", on the times that they are used with.
"""

from torch import Tensor

from diffusion_book._checks import at_least, share
from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Denoiser
from diffusion_book.samplers.common import Callback, Step, check_generator, combine, denoise_at, walk
from diffusion_book.samplers.grids import Times
from diffusion_book.schedules import Schedule


def ddim(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    *,
    eta: float = 0.0,
    generator: Generators | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Step from x_t to x_s = a_s x̂0 + √(b_s² − std²) ε̂ + std · noise, with std = η × the posterior's.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0].
        times: falling times that end in 0.
        eta: 0 is deterministic, 1 is ancestral sampling (`ddpm` with the small variance, on any grid).
        generator: needed where eta > 0; one, or one for each example.
        callback: told of each step.

    Returns:
        x_0 [B, …], without noise.

    Raises:
        ValueError: eta is negative or above 1, or eta > 0 without a generator.

    Source: Song et al. 2021a, equation 12, with η as in equation 16.
    """
    share("eta", eta, "0 deterministic, 1 ancestral")
    check_generator("eta", eta, generator)
    for m in walk(schedule, times):
        x0_hat = denoise_at(denoiser, xt, m)
        std = eta * m.std
        c_eps = max(m.b_s**2 - std**2, 0) ** 0.5
        # ε̂ = (x_t − a_t x̂0)/b_t is written out, which saves two passes over the batch.
        xt = combine(c_eps / m.b_t, xt, (m.a_s - c_eps * m.a_t / m.b_t, x0_hat))
        if generator is not None and std > 0:
            xt = xt + std * randn_like(xt, generator)
        if callback is not None:
            callback(Step(m.t, m.s, xt, x0_hat))
    return xt


def ddim_invert(
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Tensor,
    times: Times,
    *,
    iterations: int = 1,
    callback: Callback | None = None,
) -> Tensor:
    """Walk from data to the noise from which `ddim` with η = 0 comes back to it (chapters 7 and 14).

    The way back takes x_t to x_s with ε̂(x_t, t), but x_t is what we look for. One iteration puts x_s, which is near,
    in its place (Dhariwal and Nichol 2021, appendix F); more iterate to the fixed point, which inverts the sampler's
    own steps rather than the ODE.

    Args:
        times: the sampler's own grid, falling to 0; it is walked backwards.
        iterations: calls of the denoiser for each step.
        callback: told of each step, from s to t.

    Returns:
        x_T [B, …], or x at times[0].

    Raises:
        ValueError: iterations is no whole number above 0, or a(times[0]) = 0.
    """
    at_least(1, iterations=iterations)
    moves = walk(schedule, times)
    if moves[0].a_t == 0:
        raise ValueError("at t = T this schedule has no signal left (a = 0), so no x_T leads back to x0; start lower")
    xs = x0
    for number, move in enumerate(reversed(moves), 1):
        xt, m = xs, move._replace(number=number)  # counted as they are taken
        for _ in range(iterations):
            x0_hat = denoise_at(denoiser, xt, m)
            eps_hat = (xt - m.a_t * x0_hat) / m.b_t
            xt = (m.a_t / m.a_s) * (xs - m.b_s * eps_hat) + m.b_t * eps_hat
        xs = xt
        if callback is not None:
            callback(Step(m.s, m.t, xs, x0_hat))
    return xs
