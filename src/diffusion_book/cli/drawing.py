"""Pictures from a model: the same seed is the same picture, whatever is drawn beside it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_book import guidance, samplers, zoo
from diffusion_book._names import unknown
from diffusion_book.cli.models import classes_of, image_shape
from diffusion_book.denoise import Denoiser
from diffusion_book.samplers.grids import Times
from diffusion_book.schedules import Schedule
from diffusion_book.training.loop import Precision, autocast, resolve

Sampler = tuple[Callable[..., Tensor], Callable[[Schedule, int], Times], bool]

SAMPLERS: dict[str, Sampler] = {
    "ddim": (samplers.ddim, samplers.uniform_times, False),
    "ddpm": (samplers.ddpm, samplers.uniform_times, True),
    "dpm_solver": (samplers.dpm_solver, samplers.log_snr_times, False),
    "euler": (samplers.euler, samplers.karras_times, False),
    "euler_ancestral": (samplers.euler_ancestral, samplers.karras_times, True),
    "heun": (samplers.heun, samplers.karras_times, False),
    "unipc": (samplers.unipc, samplers.log_snr_times, False),
}
"""Each with the grid of times that suits it, and whether it draws noise on the way."""


@dataclass(frozen=True)
class Guidance:
    """How far a model is pushed, away from what, and where.

    Attributes:
        w: 1 is none. bad: push away from this worse model rather than from "no label".
        sigma_low, sigma_high: guide only where σ_low < σ ≤ σ_high; see `guidance.interval`.
    """

    w: float = 1.0
    bad: zoo.Pretrained | None = None
    sigma_low: float = 0.0
    sigma_high: float = math.inf

    @property
    def everywhere(self) -> bool:
        return self.sigma_low == 0 and self.sigma_high == math.inf

    @property
    def where(self) -> str:
        """The noise at which it acts, in words."""
        return "everywhere" if self.everywhere else f"where {self.sigma_low:g} < σ ≤ {self.sigma_high:g}"


NONE = Guidance()


def recommended(model: zoo.Pretrained) -> Guidance:
    """The guidance that its card found best for a class; none, where the card does not say."""
    best = model.card.get("guidance by distance to training digits", {}).get("best")
    return Guidance(best["w"], None, *best["interval"]) if best else NONE


def batches(
    model: zoo.Pretrained,
    seeds: Sequence[int],
    y: Tensor | None = None,
    sampler: str = "dpm_solver",
    steps: int = 18,
    guided: Guidance = NONE,
    size: int | None = None,
    batch_size: int = 64,
    precision: Precision = "fp32",
    progress: bool = False,
) -> Iterator[Tensor]:
    """Sample one picture for each seed → [B, C, H, W] at a time, on the CPU, in [−1, 1].

    What is wrong is told by the call, before the first picture is asked for.

    Args:
        y: [N] labels. size: see `models.image_shape`. progress: show a bar, where someone looks.
        precision: of the network. In bfloat16 a picture depends a little on those that are drawn beside it.

    Raises:
        ValueError: an unknown sampler; or what the model does not know, such as a label; or a precision that the device
            does not have.
    """
    name = sampler.replace("-", "_").lower()
    if name not in SAMPLERS:
        raise ValueError(unknown("sampler", sampler, SAMPLERS))
    sample, grid, draws_noise = SAMPLERS[name]
    check_labels(model, y)
    denoiser_of(model, y, guided)  # complains, where there is reason to
    schedule = model.schedule
    assert schedule is not None
    times = grid(schedule, steps)
    shape = image_shape(model, size)
    device = next(model.network.parameters()).device
    resolve(precision, device)  # complains as well

    def drawn() -> Iterator[Tensor]:
        calls = -(-len(seeds) // batch_size) * steps
        with tqdm(total=calls, desc="sampling", disable=None if progress else True) as bar:
            for start in range(0, len(seeds), batch_size):
                generators = samplers.seeded(seeds[start : start + batch_size])
                labels = None if y is None else y[start : start + batch_size].to(device)
                options: dict[str, Any] = {"generator": generators} if draws_noise else {}
                x_T = samplers.start_noise((len(generators), *shape), generators, device=device, schedule=schedule)
                denoiser = denoiser_of(model, labels, guided)
                with autocast(precision, device):
                    x0 = sample(denoiser, schedule, x_T, times, callback=lambda _: bar.update(), **options)
                yield x0.clamp(-1, 1).cpu()

    return drawn()


def denoiser_of(model: zoo.Pretrained, y: Tensor | None, guided: Guidance) -> Denoiser:
    """The model's denoiser, guided by its own "no label" or by a worse model."""
    w, bad = guided.w, guided.bad
    denoiser = model.denoiser(y, w) if bad is None else _away_from(bad, model, y, w)
    if guided.everywhere:
        return denoiser
    if w == 1:
        raise ValueError("an interval is of guidance; give --guidance above 1, such as 2")
    assert model.schedule is not None
    return guidance.interval(denoiser, model.denoiser(y), model.schedule, guided.sigma_low, guided.sigma_high)


def _away_from(bad: zoo.Pretrained, good: zoo.Pretrained, y: Tensor | None, w: float) -> Denoiser:
    if good.schedule is None or bad.schedule is None or repr(good.schedule) != repr(bad.schedule):
        raise ValueError(f"both models must denoise on one schedule, got {good.schedule!r} and {bad.schedule!r}")
    if w == 1:
        raise ValueError("a guidance of 1 does not ask the bad model; give --guidance above 1, such as 2")
    return guidance.threshold(guidance.autoguidance(good.denoiser(y, x0_max=None), bad.denoiser(y, x0_max=None), w))


def check_labels(model: zoo.Pretrained, y: Tensor | None) -> None:
    """Raise a ValueError where a model does not know a label, or needs one."""
    classes = classes_of(model)
    config: Any = model.network.config
    if y is None:
        if model.schedule is not None and classes and not config.no_label:
            raise ValueError(f"this model needs a class, 0 … {classes - 1}; say which with --class")
        return
    if not classes:
        raise ValueError("this model was trained without classes; leave --class out")
    wrong = y[(y < 0) | (y >= classes)].tolist()
    if wrong:
        raise ValueError(f"this model knows the classes 0 … {classes - 1}, got {wrong[0]}")


def preview_labels(classes: int) -> tuple[int, Tensor | None, int]:
    """(number of pictures, their labels, columns) that show a model: each class twice, or sixteen of no class."""
    if not classes:
        return 16, None, 4
    columns = min(classes, 10)
    return 2 * columns, torch.arange(columns).repeat(2), columns
