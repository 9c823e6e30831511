"""Predictor–corrector: a reverse step, then Langevin steps at the same noise (Song et al. 2021b). Chapter 15."""

from torch import Tensor

from diffusion_book.denoise import Denoiser
from diffusion_book.process import Generators, randn_like
from diffusion_book.samplers.common import Callback, Step, coefficients, denoise_at, posterior_steps, steps_of
from diffusion_book.samplers.grids import Times, check_times
from diffusion_book.schedules import Schedule


def predictor_corrector(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    generator: Generators,
    corrections: int = 1,
    snr: float = 0.16,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral steps as in `ddpm`, each followed by Langevin steps x ← x + δ score + √(2δ) noise that keep p_s.

    The corrector does not move the distribution on, it repairs it: whatever error the predictor left decays. With
    the noise level b_s as its natural unit, δ = 2 (snr · b_s ‖noise‖ / ‖ε̂‖)², which is their step, 2 (r ‖z‖/‖g‖)²,
    for the score g = −ε̂/b_s (algorithms 4 and 5). Norms are taken for each example.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0]. times: falling times that end in 0.
        corrections: Langevin steps at each time but the last; each costs an evaluation.
        snr: their r; 0.16 is their choice for images.
    """
    if corrections < 0:
        raise ValueError(f"corrections must not be negative, got {corrections}")
    if not snr > 0:
        raise ValueError(f"snr must be positive, got {snr}; 0.16 is the usual choice")
    times = check_times(schedule, times)
    a, b, _ = coefficients(schedule, times)
    posterior = posterior_steps(schedule, times)
    for i, t, s, where in steps_of(times):
        x0_hat = denoise_at(denoiser, xt, t, where)
        c_0, c_t, std = posterior[i]
        xt = c_0 * x0_hat + c_t * xt
        if s > 0:
            xt = xt + std * randn_like(xt, generator)
            for _ in range(corrections):
                x0_hat = denoise_at(denoiser, xt, s, where)
                eps_hat = (xt - a[i + 1] * x0_hat) / b[i + 1]
                noise = randn_like(xt, generator)
                step = snr * b[i + 1] * _norm(noise) / _norm(eps_hat)  # √(δ/2)
                xt = xt - 2 * step**2 / b[i + 1] * eps_hat + 2 * step * noise
        if callback is not None:
            callback(Step(t, s, xt, x0_hat))
    return xt


def _norm(x: Tensor) -> Tensor:
    """The length of each example, [B, 1, …]."""
    return x.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, *(1,) * (x.ndim - 1))
