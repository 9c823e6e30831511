"""Predictor–corrector: a reverse step, then Langevin steps at the same noise (Song et al. 2021b). Chapter 15."""

from torch import Tensor

from diffusion_book._checks import at_least
from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Denoiser
from diffusion_book.samplers.common import Callback, Step, combine, denoise_at, walk
from diffusion_book.samplers.grids import Times
from diffusion_book.samplers.langevin import check_snr, langevin_step
from diffusion_book.schedules import Schedule


def predictor_corrector(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    *,
    corrections: int = 1,
    snr: float = 0.16,
    generator: Generators,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral steps as in `ddpm`, each followed by Langevin steps x ← x + δ score + √(2δ) noise that keep p_s.

    The corrector does not move the distribution on, it repairs it: whatever error the predictor left decays. Its step
    is δ = 2 (snr · b_s)². The score −ε̂/b_s of p_s is never steeper downhill than 1/b_s², so such a step is stable for
    every snr < 1, and widens a Gaussian's variance by a factor of at most 1/(1 − snr²).

    So does annealed Langevin dynamics take it (Song and Ermon 2019, algorithm 1). The paper (algorithms 4 and 5) has
    δ = 2 (snr ‖noise‖/‖score‖)², which is the same for white noise. With the norms of a whole batch an example would
    depend on the others; with its own, in few dimensions, the score is often almost 0 and the step without bound.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0]. times: falling times that end in 0.
        corrections: Langevin steps at each time but the last; each costs an evaluation.
        snr: their r; 0.16 is their choice for images.
        generator: the source of every random number of the walk; or one for each example.
        callback: told of each step, after its corrections, with the last x̂0.

    Returns:
        x_0 [B, …], without noise.

    Raises:
        ValueError: corrections is negative or no whole number, or snr outside (0, 1).
    """
    at_least(0, corrections=corrections)
    check_snr(snr)
    for m in walk(schedule, times):
        x0_hat = denoise_at(denoiser, xt, m)
        xs = combine(m.c_t, xt, (m.c_0, x0_hat))
        if m.s > 0:
            xs = xs + m.std * randn_like(xs, generator)
            for _ in range(corrections):
                x0_hat = denoise_at(denoiser, xs, m, m.s)
                xs = langevin_step(xs, x0_hat, m.a_s, m.b_s, snr, generator)
        xt = xs
        if callback is not None:
            callback(Step(m.t, m.s, xt, x0_hat))
    return xt
