"""Annealed Langevin dynamics: at each noise level a few steps uphill with noise (Song and Ermon 2019). Chapter 15."""

from torch import Tensor

from diffusion_book._checks import at_least
from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Denoiser
from diffusion_book.samplers.common import Callback, Step, denoise_at, walk
from diffusion_book.samplers.grids import Times
from diffusion_book.schedules import Schedule


def langevin(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    *,
    corrections: int = 10,
    snr: float = 0.16,
    generator: Generators,
    callback: Callback | None = None,
) -> Tensor:
    """At each time of the grid some Langevin steps x ← x + δ score + √(2δ) noise, and then on to less noise as it is.

    Nothing carries x from one level to the next; each level has to pull it in from where the one before left it. So it
    needs levels that are close to each other, and several steps at each: `predictor_corrector` does the carrying too.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0]. times: falling times that end in 0; `log_snr_times` suit it.
        corrections: Langevin steps at each time but the last; each costs an evaluation, and the end costs one.
        snr: the size of a step, δ = 2 (snr · b)², as in `predictor_corrector`.
        generator: the source of every random number of the walk; or one for each example.
        callback: told of each level, after its steps, with the last x̂0.

    Returns:
        x_0 [B, …]: the last x̂0, without noise.

    Raises:
        ValueError: corrections is no whole number above 0, or snr outside (0, 1).

    Source: Song and Ermon 2019, algorithm 1, whose α_i is 2δ here. They end without the last x̂0, in a little noise.
    """
    at_least(1, corrections=corrections)
    check_snr(snr)
    for m in walk(schedule, times):
        for _ in range(corrections):
            x0_hat = denoise_at(denoiser, xt, m)
            xt = langevin_step(xt, x0_hat, m.a_t, m.b_t, snr, generator)
        if m.s == 0:
            xt = x0_hat = denoise_at(denoiser, xt, m)
        if callback is not None:
            callback(Step(m.t, m.s, xt, x0_hat))
    return xt


def langevin_step(xt: Tensor, x0_hat: Tensor, a: float, b: float, snr: float, generator: Generators) -> Tensor:
    """x + δ score + √(2δ) noise with δ = 2 (snr · b)², at the level a, b. Chapter 15.

    The score −ε̂/b is never steeper downhill than 1/b², so the step is stable for every snr < 1, and widens a Gaussian's
    variance by a factor of at most 1/(1 − snr²).

    Source: Song and Ermon 2019, algorithm 1.
    """
    step = snr * b  # √(δ/2)
    eps_hat = (xt - a * x0_hat) / b
    return xt - 2 * step**2 / b * eps_hat + 2 * step * randn_like(xt, generator)


def check_snr(snr: float) -> None:
    """A ValueError unless Langevin steps of that size are stable."""
    if not 0 < snr < 1:
        raise ValueError(f"snr must lie between 0 and 1, where Langevin steps are stable, got {snr}; 0.16 is usual")
