"""What the comparisons with other samplers share: diffusers' schedulers in double precision, and exact problems."""

import importlib
import math
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from diffusion_book import samplers, schedules
from diffusion_book.samplers import Step


class _Double:
    """A module whose float32 is float64: diffusers names float32 in its code, and rounds to it at every step."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self.float32 = module, module.float64

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)


@pytest.fixture
def double(monkeypatch) -> Callable[[type], type]:
    """Make a scheduler class of diffusers compute in double precision, so that two formulas agree to 1e-10 or not."""

    def patched(scheduler: type) -> type:
        module = importlib.import_module(scheduler.__module__)
        for name in ("torch", "np"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, _Double(getattr(module, name)))
        return scheduler

    return patched


@pytest.fixture
def same_noise(monkeypatch) -> None:
    """What a seed draws in single precision is what it draws in double, rounded."""

    def randn_like(x: torch.Tensor, generator: samplers.Generators) -> torch.Tensor:
        return samplers.randn_like(x.double(), generator).to(x.dtype)

    for module in ("ddim", "ddpm", "dpm_solver", "heun", "langevin", "predictor_corrector", "sde"):
        monkeypatch.setattr(sys.modules[f"diffusion_book.samplers.{module}"], "randn_like", randn_like)


@pytest.fixture
def gaussian_flow() -> Callable[..., float]:
    """The error of a sampler on the probability-flow ODE of N(μ, s²) data, which has a closed form.

    It starts at σ = 20 with numbers that Gaussian data would have there, takes `steps` steps that are even in log σ
    to σ = 0.05, and is compared there, with three steps still to come: the last, to 0, is of order 1 whatever the
    sampler, and UniPC lowers its order before it. The ODE keeps (x − a μ)/√(a² s² + b²).
    """
    mu, variance, high, low = 0.5, 0.3, 20.0, 0.05
    schedule = schedules.EDM(sigma_max=100.0)
    x = torch.tensor([[-30.0], [10.0], [25.0]], dtype=torch.float64)
    exact = mu + (x - mu) * math.sqrt((variance + low**2) / (variance + high**2))

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (variance * xt + t[:, None] ** 2 * mu) / (variance + t[:, None] ** 2)

    def error(sampler: Callable, steps: int, first: float | None = None) -> float:
        """`first` is the length in ℓ of the first step, where it is not as long as the others."""
        start, end = math.log(high), math.log(low)
        log_sigma = torch.linspace(start, end, steps + 1, dtype=torch.float64)
        if first is not None:
            log_sigma[1:] = torch.linspace(start - first, end, steps, dtype=torch.float64)
        more = end - (start - end) / steps * torch.tensor([1.0, 2.0])
        times = [*schedule.time_at(-2 * torch.cat([log_sigma, more])).tolist(), 0.0]
        seen: list[Step] = []
        sampler(denoiser, schedule, x, times, callback=seen.append)
        return (seen[steps - 1].xs - exact).abs().max().item()

    return error


@pytest.fixture
def order_of(gaussian_flow) -> Callable[..., float]:
    """The slope of log error against log step, by least squares over grids each twice as fine."""

    def order(sampler: Callable, counts: list[int], first: Callable[[float], float] | None = None) -> float:
        lengths = [math.log(400) / n for n in counts]
        errors = [gaussian_flow(sampler, n, None if first is None else first(h)) for n, h in zip(counts, lengths)]
        x, y = torch.tensor(lengths).log(), torch.tensor(errors).log()
        return (((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()).item()

    return order
