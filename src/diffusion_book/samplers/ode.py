"""The probability-flow ODE with an adaptive solver, and the likelihood that it gives (Song et al. 2021b). Chapter 15.

All integrate in the angle φ = arctan(b/a) rather than in t: y = x_t/√(a² + b²) = cos φ x0 + sin φ ε moves with
dy/dφ = cos φ ε̂ − sin φ x̂0, which is v. On every schedule that is the same equation, smooth from data to noise; in t
it is infinite at the data for VP, and in σ at the noise wherever a(T) = 0.

Each example has its own steps, and so its own times: the denoiser is asked with [B] different ones. What an example
becomes therefore does not depend on what else is in its batch.
"""

import math
from collections.abc import Callable, Iterator
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from diffusion_book._checks import check_floating, one_of
from diffusion_book._double import in_double, real_on
from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Denoiser
from diffusion_book.samplers.common import Callback, Step, check_estimate
from diffusion_book.schedules import Discrete, Schedule, expand

Velocity = Callable[[Tensor, Tensor, str], Tensor]
"""dy/dφ [B, …] from the angles φ [B] and y [B, …]; the text tells an error which step it was."""

# The method of Dormand and Prince, of orders 5 and 4: where in a step each slope is taken, the earlier ones that lead
# there, and the difference between the two orders.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
WEIGHTS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
DIFFERENCE = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def probability_flow(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    *,
    sigma_min: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    callback: Callback | None = None,
) -> Tensor:
    """From x_T to data along the probability-flow ODE, by a Runge–Kutta method with error control (chapter 15).

    Each step costs six evaluations, and each example takes as many as it needs; who has arrived waits for the others.

    Args:
        denoiser: (x_t, t) → x̂0, for any real t in (0, T], another for each example.
        schedule: continuous; for a discrete one, `schedule.continuous()`.
        xt: [B, …] noise at T, from `start_noise`.
        sigma_min: the noise b/a at which it stops and takes the last x̂0.
        rtol, atol: a step's error in y may be atol + rtol |y|, as a root mean square over an example's numbers.
        callback: told of each step, with x_s and the x̂0 there, and [B] times: where an example waits, or tries
            again with a smaller step, its s is its t. The last step is the one from σ_min to 0, which takes x̂0.

    Returns:
        x_0 [B, …].

    Raises:
        ValueError: the schedule is discrete, the batch is not floating point, sigma_min is not between 0 and σ_T, or
            a tolerance is not positive.
        RuntimeError: no step is small enough, as where y runs off to infinity.

    Source: Song et al. 2021b, section 4.3. The method and its choice of steps are those of scipy's RK45 (Dormand and
    Prince 1980), with which tests compare.
    """
    last, first = _angles(schedule, xt, sigma_min, rtol, atol)
    step = _walk(denoiser, schedule, in_double(xt) / schedule.prior_std, xt, first, last, rtol, atol, callback)
    if callback is not None:
        callback(Step(step.s, 0 * step.s, step.x0_hat, step.x0_hat))
    return step.x0_hat


def encode(
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Tensor,
    *,
    sigma_min: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    callback: Callback | None = None,
) -> Tensor:
    """The way back: the x_T [B, …] from which `probability_flow` comes to x0 (chapter 15).

    Arguments and errors are those of `probability_flow`. It starts with x0 in the place of x at σ_min; the callback is
    told of the steps from there, s being the later time.

    Source: Song et al. 2021b, section 4.3.
    """
    first, last = _angles(schedule, x0, sigma_min, rtol, atol)
    return _walk(denoiser, schedule, math.cos(first) * in_double(x0), x0, first, last, rtol, atol, callback).xs


def log_likelihood(
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Tensor,
    *,
    divergence: Literal["exact", "hutchinson"] = "exact",
    sigma_min: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    generator: Generators | None = None,
) -> Tensor:
    """log p(x0) in nats, [B], of the model that the ODE is (Song et al. 2021b, equation 39). Chapter 15.

    Along the ODE log p falls by the divergence of its velocity, so log p(x0) is that of the noise at its end plus the
    integral. It is the density of data with noise of σ_min in it; the start is x0 itself, as is usual.

    Args:
        denoiser: (x_t, t) → x̂0; differentiable, so not itself under `torch.no_grad`.
        x0: [B, …].
        divergence: "exact" differentiates once for each dimension; "hutchinson" once, along one random sign vector
            for each example, which is right on average (Hutchinson 1990; Grathwohl et al. 2019).
        sigma_min, rtol, atol: as in `probability_flow`; the errors are those of the log-likelihood as well.
        generator: needed for "hutchinson".

    Raises:
        ValueError: as `probability_flow`; or `divergence` is another, "hutchinson" has no generator, or x̂0 has no
            gradient.
        RuntimeError: as `probability_flow`.
    """
    _check_divergence(divergence, generator)
    first, last = _angles(schedule, x0, sigma_min, rtol, atol)
    x = in_double(x0)
    probe = None if generator is None or divergence == "exact" else randn_like(x, generator).sign()
    start = torch.cat([math.cos(first) * x.flatten(1), x.new_zeros(len(x), 1)], 1)

    def velocity(phi: Tensor, state: Tensor, step: str) -> Tensor:
        y = state[:, :-1].reshape(x0.shape)
        v, div = _v_and_divergence(denoiser, schedule, y, phi, probe, x0, step)
        return torch.cat([v.flatten(1), div[:, None]], 1)

    for _, _, state, _ in _dormand_prince(velocity, start, first, last, rtol, atol):
        y, gained = state[:, :-1], state[:, -1]
    log_normal = -0.5 * (y**2 + math.log(2 * math.pi)).sum(1)
    # y is cos φ times x at the start, and a density in y is one in x with that factor for each dimension.
    return log_normal + gained + y.shape[1] * math.log(math.cos(first))


def _check_divergence(divergence: str, generator: Generators | None) -> None:
    one_of("divergence", divergence, ("exact", "hutchinson"))
    if divergence == "hutchinson" and generator is None:
        raise ValueError("Hutchinson's estimate draws random signs, so pass a torch.Generator")


def _v_and_divergence(
    denoiser: Denoiser,
    schedule: Schedule,
    y: Tensor,
    phi: Tensor,
    probe: Tensor | None,
    like: Tensor,
    step: str,
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        # What inference_mode made has no gradient, even where that mode is off; a copy has.
        y = (y.clone() if y.is_inference() else y.detach()).requires_grad_(True)
        v, x0_hat = _velocity(denoiser, schedule, y, phi, like, step)
        if not x0_hat.requires_grad:
            raise ValueError(
                "a likelihood needs x̂0 differentiable in x_t, and it is not: under torch.no_grad or inference_mode?"
            )
        if probe is not None:
            (pulled,) = torch.autograd.grad(v, y, probe)
            return v.detach(), (pulled * probe).flatten(1).sum(1)
        div = torch.zeros(len(y), dtype=torch.float64, device=y.device)
        flat = v.flatten(1)
        for d in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, d].sum(), y, retain_graph=True)
            div = div + row.flatten(1)[:, d]
        return v.detach(), div


def _velocity(
    denoiser: Denoiser, schedule: Schedule, y: Tensor, phi: Tensor, like: Tensor, step: str
) -> tuple[Tensor, Tensor]:
    """v = dy/dφ = (cos φ y − x̂0)/sin φ in double, and that x̂0; the denoiser is asked with a batch like the start."""
    t, scale = _at_angle(schedule, phi)
    xt = (expand(scale, y) * y).to(like)
    x0_hat = in_double(check_estimate(denoiser(xt, t.to(xt.device, real_on(xt.device))), xt, t, step))
    return (expand(phi.cos(), y) * y - x0_hat) / expand(phi.sin(), y), x0_hat


def _walk(
    denoiser: Denoiser,
    schedule: Schedule,
    y: Tensor,
    like: Tensor,
    first: float,
    last: float,
    rtol: float,
    atol: float,
    callback: Callback | None,
) -> Step:
    """The last of the steps from `first` to `last`, with tensors like the batch; the callback is told of each."""

    def velocity(phi: Tensor, y: Tensor, step: str) -> Tensor:
        with torch.no_grad():
            return _velocity(denoiser, schedule, y, phi, like, step)[0]

    for before, phi, ys, v in _dormand_prince(velocity, y.detach(), first, last, rtol, atol):
        s, scale = _at_angle(schedule, phi)
        x0_hat = expand(phi.cos(), ys) * ys - expand(phi.sin(), ys) * v  # which `velocity` made v of
        step = Step(_at_angle(schedule, before)[0], s, (expand(scale, ys) * ys).to(like), x0_hat.to(like))
        if callback is not None:
            callback(step)
    return step


def _dormand_prince(
    velocity: Velocity, y: Tensor, first: float, last: float, rtol: float, atol: float
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """After each try of a step: the angles [B] before it and now, y [B, …] now, and the velocity there.

    Whose error is too large stays where it was, and tries again with a smaller step.
    """
    phi = torch.full((len(y),), first, dtype=torch.float64, device="cpu")
    length = torch.full_like(phi, abs(last - first) / 100)
    again = torch.zeros_like(phi, dtype=torch.bool)
    slope = velocity(phi, y, "step 1")
    for number in count(1):
        remaining = (last - phi).abs()
        if bool(((remaining > 0) & ~(length > 1e-15 * phi)).any()):
            raise RuntimeError(f"the ODE solver finds no step small enough at φ = {phi[remaining > 0][0]:.4g}")
        length = torch.minimum(length, remaining)
        there = torch.where(length < remaining, phi + math.copysign(1, last - first) * length, last)
        h, slopes, y_there = expand(there - phi, y), [slope], y
        for node, weights in zip(NODES, WEIGHTS):
            y_there = y + h * sum(weight * k for weight, k in zip(weights, slopes))
            slopes.append(velocity(phi.lerp(there, node), y_there, f"step {number}"))
        # The last slope is taken at the end of the step: it is the first of the next.
        error = h * sum(weight * k for weight, k in zip(DIFFERENCE, slopes))
        allowed = atol + rtol * torch.maximum(y.abs(), y_there.abs())
        size = (error / allowed)[..., None].flatten(1).square().mean(1).sqrt().cpu()
        taken = size < 1
        before, phi = phi, torch.where(taken, there, phi)
        keep = expand(taken, y).bool()
        y, slope = torch.where(keep, y_there, y), torch.where(keep, slopes[-1], slope)
        factor = (0.9 * size**-0.2).clamp(0.2, 10)
        length = length * torch.where(again, factor.clamp(max=1), factor)
        again = ~taken
        yield before, phi, y, slope
        if bool((phi == last).all()):
            return


def _angles(schedule: Schedule, x: Tensor, sigma_min: float, rtol: float, atol: float) -> tuple[float, float]:
    """The angles between which to integrate, that of σ_min and that of T; or what is wrong with the request."""
    if isinstance(schedule, Discrete):
        raise ValueError("an adaptive solver visits every real time: pass schedule.continuous(), also to the denoiser")
    check_floating("a batch", x)
    _, a, b = schedule.at(schedule.T)
    if not 0 < sigma_min < float(b / a):
        raise ValueError(f"sigma_min must lie between 0 and σ_T, got {sigma_min}; 1e-3 is usual")
    if not (0 < rtol < math.inf and 0 < atol < math.inf):
        raise ValueError(f"rtol and atol must be positive, got {rtol} and {atol}; 1e-5 is usual")
    return math.atan(sigma_min), math.atan2(float(b), float(a))


def _at_angle(schedule: Schedule, phi: Tensor) -> tuple[Tensor, Tensor]:
    """The times [B] at these angles, and √(a² + b²) there."""
    t, a, b = schedule.at(schedule.time_at(torch.where(phi < math.pi / 2, -2 * phi.tan().log(), -math.inf)))
    return t, torch.hypot(a, b)
