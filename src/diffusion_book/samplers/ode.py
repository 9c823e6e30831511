"""The probability-flow ODE with an adaptive solver, and the likelihood that it gives (Song et al. 2021b). Chapter 15.

Both integrate in the angle φ = arctan(b/a) rather than in t: y = x_t/√(a² + b²) = cos φ x0 + sin φ ε moves with
dy/dφ = cos φ ε̂ − sin φ x̂0, which is v. On every schedule that is the same equation, smooth from data to noise; in t
it is infinite at the data for VP, and in σ at the noise wherever a(T) = 0.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffusion_book.denoise import Denoiser
from diffusion_book.process import Generators, randn_like
from diffusion_book.samplers.common import check_estimate
from diffusion_book.schedules import Discrete, Schedule

Velocity = Callable[[float, np.ndarray], np.ndarray]


def probability_flow(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    sigma_min: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    """From x_T to data along the probability-flow ODE, by `scipy`'s RK45 with error control (chapter 15).

    Args:
        denoiser: (x_t, t) → x̂0, for any real t in (0, T].
        schedule: continuous; for a discrete one, `schedule.continuous()`.
        xt: [B, …] noise at T, from `start_noise`.
        sigma_min: the noise b/a at which it stops and takes the last x̂0.
        rtol, atol: bounds on the local error of each number; the whole batch takes the steps that its worst needs.

    Returns:
        x_0 [B, …].
    """
    last, first = _angles(schedule, sigma_min)
    y = _solve(denoiser, schedule, xt / schedule.prior_std, first, last, rtol, atol)
    t, scale = _at_angle(schedule, last)
    return _estimate(denoiser, scale * y, t).to(xt)


def encode(
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Tensor,
    sigma_min: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    """The way back: the x_T [B, …] from which `probability_flow` comes to x0 (chapter 15)."""
    first, last = _angles(schedule, sigma_min)
    y = _solve(denoiser, schedule, math.cos(first) * x0, first, last, rtol, atol)
    return schedule.prior_std * y


def log_likelihood(
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Tensor,
    divergence: Literal["exact", "hutchinson"] = "exact",
    generator: Generators | None = None,
    sigma_min: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    """log p(x0) in nats, [B], of the model that the ODE is (Song et al. 2021b, equation 39). Chapter 15.

    Along the ODE log p falls by the divergence of its velocity, so log p(x0) is that of the noise at its end plus the
    integral. It is the density of data with noise of σ_min in it; the start is x0 itself, as is usual.

    Args:
        denoiser: (x_t, t) → x̂0; differentiable, so not under `torch.no_grad`.
        x0: [B, …].
        divergence: "exact" differentiates once for each dimension; "hutchinson" once, along one random sign vector
            for each example, which is right on average (Hutchinson 1990; Grathwohl et al. 2019).
        generator: needed for "hutchinson".
    """
    if divergence not in ("exact", "hutchinson"):
        raise ValueError(f"divergence must be 'exact' or 'hutchinson', got {divergence!r}")
    if divergence == "hutchinson" and generator is None:
        raise ValueError("Hutchinson's estimate draws random signs, so pass a torch.Generator")
    probe = None if generator is None or divergence == "exact" else randn_like(x0.double(), generator).sign()
    first, last = _angles(schedule, sigma_min)
    start = torch.cat([math.cos(first) * x0.double().flatten(1), x0.new_zeros(len(x0), 1, dtype=torch.float64)], 1)

    def velocity(phi: float, state: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(state).reshape(len(x0), -1)[:, :-1].reshape(x0.shape).to(x0.device)
        v, div = _v_and_divergence(denoiser, schedule, y, phi, probe, x0.dtype)
        return torch.cat([v.flatten(1), div[:, None]], 1).flatten().cpu().numpy()

    state = _integrate(velocity, start.cpu(), first, last, rtol, atol)
    y, gained = state[:, :-1], state[:, -1]
    log_normal = -0.5 * (y**2 + math.log(2 * math.pi)).sum(1)
    dimensions = y.shape[1]
    # y is cos φ times x at the start, and a density in y is one in x with that factor for each dimension.
    return (log_normal + gained + dimensions * math.log(math.cos(first))).to(x0.device)


def _v_and_divergence(
    denoiser: Denoiser, schedule: Schedule, y: Tensor, phi: float, probe: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        y = y.detach().requires_grad_(True)
        v, x0_hat = _velocity(denoiser, schedule, y, phi, dtype)
        if not x0_hat.requires_grad:
            raise ValueError(
                "a likelihood needs x̂0 that is differentiable in x_t, and this denoiser's is not: is it under "
                "torch.no_grad?"
            )
        if probe is not None:
            (pulled,) = torch.autograd.grad((v * probe).sum(), y)
            return v.detach(), (pulled * probe).flatten(1).sum(1)
        div = torch.zeros(len(y), dtype=torch.float64, device=y.device)
        flat = v.flatten(1)
        for d in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, d].sum(), y, retain_graph=True)
            div = div + row.flatten(1)[:, d]
        return v.detach(), div


def _velocity(
    denoiser: Denoiser, schedule: Schedule, y: Tensor, phi: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """v = dy/dφ = (cos φ y − x̂0)/sin φ in y's dtype, and that x̂0; the denoiser is asked in the batch's own dtype."""
    t, scale = _at_angle(schedule, phi)
    x0_hat = _estimate(denoiser, (scale * y).to(dtype), t).to(y)
    return (math.cos(phi) * y - x0_hat) / math.sin(phi), x0_hat


def _estimate(denoiser: Denoiser, xt: Tensor, t: float) -> Tensor:
    x0_hat = denoiser(xt, torch.full((len(xt),), t, dtype=torch.float64, device=xt.device))
    check_estimate(x0_hat.detach(), xt, t)
    return x0_hat


def _solve(
    denoiser: Denoiser, schedule: Schedule, y: Tensor, first: float, last: float, rtol: float, atol: float
) -> Tensor:
    def velocity(phi: float, state: np.ndarray) -> np.ndarray:
        here = torch.from_numpy(state).reshape(y.shape).to(y.device)
        with torch.no_grad():
            return _velocity(denoiser, schedule, here, phi, y.dtype)[0].flatten().cpu().numpy()

    return _integrate(velocity, y.double().cpu(), first, last, rtol, atol).to(y)


def _integrate(velocity: Velocity, start: Tensor, first: float, last: float, rtol: float, atol: float) -> Tensor:
    from scipy.integrate import solve_ivp  # imported where it is used: it is slow to load

    solution = solve_ivp(velocity, (first, last), start.flatten().numpy(), rtol=rtol, atol=atol, method="RK45")
    if not solution.success:
        raise RuntimeError(f"the ODE solver stopped at φ = {solution.t[-1]:.4g}: {solution.message}")
    return torch.from_numpy(solution.y[:, -1]).reshape(start.shape)


def _angles(schedule: Schedule, sigma_min: float) -> tuple[float, float]:
    """The angles between which to integrate: that of σ_min, and that of T."""
    if isinstance(schedule, Discrete):
        raise ValueError("an adaptive solver visits every real time: pass schedule.continuous(), also to the denoiser")
    if not 0 < sigma_min < float(schedule.sigma(schedule.T)):
        raise ValueError(f"sigma_min must lie between 0 and σ_T, got {sigma_min}; 1e-3 is usual")
    return math.atan(sigma_min), math.atan2(float(schedule.b(schedule.T)), float(schedule.a(schedule.T)))


def _at_angle(schedule: Schedule, phi: float) -> tuple[float, float]:
    """The time at this angle, and √(a² + b²) there."""
    t = float(schedule.time_at(-2 * math.log(math.tan(phi)) if phi < math.pi / 2 else -math.inf))
    return t, math.hypot(float(schedule.a(t)), float(schedule.b(t)))
