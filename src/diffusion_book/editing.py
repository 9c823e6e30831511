"""Editing without training: the walk back is steered, or started elsewhere, by a picture that you have. Chapter 14.

`inpaint` makes a denoiser, for any sampler; `repaint` is a sampler; `sdedit` says where a sampler starts and on which
grid; `slerp` moves between two starts. `samplers.ddim_invert` finds the start of a picture that exists.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book._checks import at_least, check_floating
from diffusion_book._double import in_double
from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Answer, Denoiser, on_x0
from diffusion_book.process import add_noise, step_coefficients
from diffusion_book.samplers.common import Callback, Step, denoise_at, walk
from diffusion_book.samplers.grids import Times, check_times
from diffusion_book.schedules import Schedule, as_tensor, expand


def inpaint(denoiser: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """x̂0 with the known part put in its place, for any sampler (chapter 14).

    The known part of the result is exact. The unknown part hears of it only through x_t, so seams remain: `repaint`
    brings the two together.

    Args:
        denoiser: (x_t, t) → x̂0, which knows nothing of the mask.
        known: [B, …] or [1, …]; what it holds outside the mask does not matter, even NaN.
        mask: bool, of a shape that broadcasts to x_t; True where `known` is to be kept.

    Raises:
        ValueError: mask is not bool; when it runs, known holds bytes, or known or mask does not fit x_t.

    Source: Wang et al. 2023, “Zero-shot image restoration using denoising diffusion null-space model”, section 3.1
    with the mask of section 3.2 for its operator.
    """
    _check_mask(mask)

    def inpainted(xt: Tensor, t: Tensor) -> Answer:
        keep, wanted = _fit(xt, known, mask)
        return on_x0(lambda x0_hat: torch.where(keep, wanted, x0_hat), denoiser(xt, t))

    return inpainted


def repaint(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    *,
    known: Tensor,
    mask: Tensor,
    resamplings: int = 10,
    jump: int = 1,
    generator: Generators,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling in which the known part follows its own noised version, with jumps back. Chapter 14.

    After each step to s the known part is drawn from q(x_s | known). Nothing yet made the unknown part agree with it,
    so the walk noises both back to where it came from and repeats: each round lets the network see them together.

    Args:
        denoiser: (x_t, t) → x̂0, which knows nothing of the mask.
        xt: [B, …] the start, at times[0]. times: falling times that end in 0.
        known, mask: as in `inpaint`.
        resamplings: rounds at each place, U in the paper; 1 is plain replacement, and with nothing known it is `ddpm`.
        jump: how many steps of the grid a round takes, their jump length. The step to 0 is always taken
            once: it adds no noise, so that walking back from it would not keep the distribution.
        generator: one, or one for each example.
        callback: told of each step towards the data.

    Returns:
        x_0 [B, …]; on the mask it is `known`.

    Raises:
        ValueError: resamplings or jump is no whole number above 0; mask is not bool; known holds bytes; known or mask
            does not fit x_t.

    Source: Lugmayr et al. 2022, algorithm 1.
    """
    at_least(1, resamplings=resamplings, jump=jump)
    _check_mask(mask)
    moves = walk(schedule, times)
    keep, wanted = _fit(xt, known, mask)
    for i, j in _visits(len(moves), resamplings, jump):
        m = moves[i]
        if j < i:  # back to more noise: from the start of this move to that of an earlier one
            a_ts, std_ts = (float(value) for value in step_coefficients(schedule, moves[j].t, m.t))
            xt = a_ts * xt + std_ts * randn_like(xt, generator)
            continue
        x0_hat = denoise_at(denoiser, xt, m)
        # A place is known or unknown, so one draw serves both.
        noise = randn_like(xt, generator) if m.s > 0 else torch.zeros_like(xt)
        xt = torch.where(keep, m.a_s * wanted + m.b_s * noise, m.c_0 * x0_hat + m.c_t * xt + m.std * noise)
        if callback is not None:
            callback(Step(m.t, m.s, xt, x0_hat))
    return xt


class Start(NamedTuple):
    """Where a sampler starts, and the grid from there: `ddim(denoiser, schedule, *start)`.

    Source: Meng et al. 2022, algorithm 1, whose start it is.
    """

    xt: Tensor
    times: Times


def sdedit(schedule: Schedule, x0: Tensor, times: Times, *, strength: float, generator: Generators) -> Start:
    """Start from a noised picture rather than from noise (Meng et al. 2022, algorithm 1). Chapter 14.

    What the noise hides is drawn anew, and what it does not is kept: coarse shapes outlast fine ones.

        start = sdedit(schedule, sketch, uniform_times(schedule, 50), strength=0.6, generator=generator)
        picture = ddim(denoiser, schedule, *start)

    Args:
        x0: [B, …] the guide: a photograph, a sketch, a collage.
        times: the grid of a whole walk, falling to 0.
        strength: in (0, 1], the time to start from as a share of T, their t0; the nearest time of the grid is taken,
            and so is at least one step. 1 forgets the guide as far as the schedule does.
        generator: one, or one for each example.

    Returns:
        x_t [B, …] at the start, and the times from there on, for any sampler that takes a grid.

    Raises:
        ValueError: strength is outside (0, 1], or the grid is not one.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must lie in (0, 1], got {strength}; at 0 nothing would change")
    check_floating("a batch", x0)
    times = check_times(schedule, times)
    first = min(range(len(times) - 1), key=lambda i: abs(times[i] - strength * schedule.T))
    rest: Times = times[first:]
    return Start(add_noise(schedule, x0, rest[0], randn_like(x0, generator)), rest)


def slerp(first: Tensor, second: Tensor, w: float | Tensor) -> Tensor:
    """From one starting noise to another along the arc between them (Song et al. 2021a, appendix D.5). Chapter 14.

    x = sin((1 − w)θ)/sin θ · first + sin(wθ)/sin θ · second, with θ the angle between them, for each example. A
    straight line would pass at 1/√2 of the length, where no noise of many dimensions ever is: on the arc between two
    vectors of one length the length stays.

    Args:
        first, second: [B, …] of one shape. Where θ = 0, or one of them is 0 and has no direction, it is the
            straight line.
        w: 0 is the first and 1 the second; one number, or [B] of them.

    Returns:
        [B, …].

    Raises:
        ValueError: the shapes differ, w is not finite or of another number of examples, or two vectors are opposite,
            between which every arc is as short; or first or second holds integers.
    """
    _check_noises(first, second)
    x, y = (_unit(in_double(v).flatten(1)) for v in (first, second))
    sum_, difference = (x + y).norm(dim=1), (x - y).norm(dim=1)
    if bool((sum_ < 1e-6 * difference).any()):
        raise ValueError("two noises point in opposite directions, so no arc between them is the shortest; redraw one")
    theta = 2 * torch.atan2(difference, sum_)  # arccos(x·y) would lose half of the digits near 0
    theta = torch.where((x.norm(dim=1) > 0) & (y.norm(dim=1) > 0), theta, 0.0)
    share, safe = _share(w, len(first)).to(x.device), torch.where(theta > 0, theta, 1.0)
    c_first, c_second = (
        torch.where(theta > 0, torch.sin(part * safe) / torch.sin(safe), part) for part in (1 - share, share)
    )
    return expand(c_first, first) * first + expand(c_second, second) * second


def _visits(steps: int, resamplings: int, jump: int) -> Iterator[tuple[int, int]]:
    """Whence and whither, by the grid's indices: (i, i + 1) towards the data, (i, j) with j < i back to more noise."""
    last = steps - 1  # the index before the end; nothing walks back from the end itself
    for start in range(0, last, jump):
        stop = min(start + jump, last)
        for rounds in range(resamplings):
            if rounds:
                yield stop, start
            yield from ((i, i + 1) for i in range(start, stop))
    yield last, steps


def _unit(x: Tensor) -> Tensor:
    """Each row at length one; a row of zeros as it is."""
    length = x.norm(dim=1, keepdim=True)
    return x / torch.where(length > 0, length, 1.0)


def _check_noises(first: Tensor, second: Tensor) -> None:
    for noise in (first, second):
        check_floating("a noise", noise)
    if first.shape != second.shape:
        raise ValueError(f"the two must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")


def _share(w: float | Tensor, count: int) -> Tensor:
    """w in float64, one number or [B]; or what is wrong with it."""
    share = as_tensor(w).double()
    if not bool(torch.isfinite(share).all()):
        raise ValueError(f"w must be finite (0 is the first, 1 the second), got {w}")
    if share.ndim > 1 or (share.ndim and len(share) not in (1, count)):
        raise ValueError(f"w must be one number or one for each of the {count} examples, got {tuple(share.shape)}")
    return share


def _check_mask(mask: Tensor) -> None:
    if not isinstance(mask, Tensor):
        raise ValueError(f"mask must be a tensor of bool, True where the picture is known, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, True where the picture is known, got {mask.dtype}; take mask > 0.5")


def _fit(xt: Tensor, known: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mask, and the known part in x_t's dtype, on x_t's device; zero where nothing is known."""
    check_floating("a batch", xt)
    check_floating("known", known)  # bytes would stand in the picture as they are
    for name, value in (("known", known), ("mask", mask)):
        fits = value.ndim <= xt.ndim and all(n in (1, m) for n, m in zip(value.shape[::-1], xt.shape[::-1]))
        if not fits:
            raise ValueError(f"{name} must broadcast to x_t's shape {tuple(xt.shape)}, got {tuple(value.shape)}")
    mask, known = mask.to(xt.device), known.to(xt)
    return mask, torch.where(mask, known, 0.0)
