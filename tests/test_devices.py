"""Devices other than the CPU: one without float64, such as Apple's, and one that is the default.

Both are imitated, since every machine must be able to try them.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from _support.walks import GRIDS, SAMPLERS, on
from diffusion_book import denoise, editing, guidance, losses, predictions, process, samplers, schedules
from diffusion_book._double import in_double, real_on
from diffusion_book.data import ring_of_gaussians
from diffusion_book.evaluation import distances
from diffusion_book.samplers import common, ode
from diffusion_book.samplers.common import batch_of_times

META, CPU = torch.device("meta"), torch.device("cpu")
RING = ring_of_gaussians()


class NoDouble(TorchFunctionMode):
    """What is float64 on "meta" is refused with the error that torch has for Apple's devices."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device == META and made.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return made


@pytest.fixture
def no_double_on_meta():
    real_on.cache_clear()
    with NoDouble():
        yield
    real_on.cache_clear()


@pytest.fixture
def no_double_here(monkeypatch):
    """The CPU taken for such a device, so that what is computed there can be looked at."""
    for module in (common, ode):
        monkeypatch.setattr(module, "real_on", lambda device: torch.float32)


def test_a_device_is_asked_what_it_has(no_double_on_meta):
    assert real_on(META) == torch.float32
    assert real_on(CPU) == torch.float64


def test_a_device_that_has_double_precision_uses_it():
    real_on.cache_clear()
    assert real_on(META) == real_on(CPU) == torch.float64
    assert in_double(torch.empty(2, device="meta")).device == META
    real_on.cache_clear()


def test_real_times_of_a_batch_are_made_there_in_single_precision(no_double_on_meta):
    for t, dtype in ((0.3, torch.float32), (7, torch.int64)):
        found = batch_of_times(torch.empty(3, 2, device="meta"), t)
        assert (found.device, found.dtype, found.shape) == (META, dtype, (3,))
    assert batch_of_times(torch.empty(3, 2), 0.3).dtype == torch.float64


@pytest.mark.parametrize(
    "schedule", [schedules.Flow(), schedules.EDM(14.6146), schedules.VP(), schedules.Cosine()], ids=repr
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_walks_on_real_times_there(name, schedule, no_double_here):
    """As elsewhere, but for times that are rounded to single precision, which the ring's modes magnify a little."""
    times, seen = samplers.log_snr_times(schedule, 9), []
    exact = denoise.exact(RING, schedule)
    x = samplers.start_noise((5, 2), torch.Generator().manual_seed(0), torch.float64, schedule=schedule)
    found = SAMPLERS[name](
        lambda xt, t: seen.append(t.dtype) or exact(xt, t), schedule, x, times, samplers.seeded(range(5))
    )
    assert set(seen) == {torch.float32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "real_on", real_on)
        expected = SAMPLERS[name](exact, schedule, x, times, samplers.seeded(range(5)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_the_adaptive_solver_asks_in_single_precision_and_keeps_its_own_in_double(no_double_here, monkeypatch):
    schedule, asked = schedules.Flow(), []
    exact = denoise.exact(RING, schedule)
    x = samplers.start_noise((4, 2), torch.Generator().manual_seed(0))

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append((xt.dtype, t.dtype))
        return exact(xt, t)

    found = samplers.probability_flow(denoiser, schedule, x, rtol=1e-3, atol=1e-3)
    likelihood = samplers.log_likelihood(denoiser, schedule, found, rtol=1e-2, atol=1e-2)
    assert set(asked) == {(torch.float32, torch.float32)}
    monkeypatch.setattr(ode, "real_on", real_on)
    expected = samplers.probability_flow(exact, schedule, x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)
    assert likelihood.dtype == torch.float64


def test_what_needs_double_precision_has_it_on_the_cpu(monkeypatch, generator):
    """Whatever the device: these are looked at where `in_double` is told that the CPU has none, and copies."""
    copied = []
    for module in (process, losses.bound, losses.times, editing, distances):
        monkeypatch.setattr(module, "in_double", lambda x: copied.append(x) or x.clone().double())
    x0, eps = (torch.randn(4, 3, generator=generator).clamp(-1, 1) for _ in range(2))
    assert process.prior_kl(schedules.linear(50), x0).dtype == torch.float32
    assert losses.reconstruction(x0, eps, torch.tensor(0.1)).dtype == torch.float32
    assert losses.by_time(x0[:, 0], torch.tensor([0.1, 0.2, 0.3, 0.4]), 1.0).dtype == torch.float64
    assert editing.slerp(x0, eps, 0.3).dtype == torch.float32
    assert len(copied) == 1 + 3 + 2 + 2
    assert {block.dtype for _, block in distances.squared_blocks(x0, eps)} == {torch.float64}
    assert len(copied) == 1 + 3 + 2 + 2 + 2


# Another default device ------------------------------------------------------------------------------------------


MAKERS = [
    *(make for make in schedules.SCHEDULES.values()),
    lambda: schedules.zero_terminal_snr(schedules.linear(50)),
    lambda: schedules.linear(50).continuous(),
    schedules.Flow,
    schedules.EDM,
    schedules.VP,
    schedules.Cosine,
]


@pytest.mark.parametrize("make", MAKERS)
def test_schedules_are_on_the_cpu_whatever_the_default_device(make):
    def numbers() -> list[torch.Tensor]:
        schedule = make()
        discrete = isinstance(schedule, schedules.Discrete)
        times = [grid(schedule, 5) for grid in GRIDS if discrete or grid is not samplers.leading_times]
        at = [schedule.at(schedule.T), schedule.at(times[0][:-1]), schedule.rates(times[0][1])]
        coefficients = [predictions.coefficients(p, schedule, times[0][1]) for p in predictions.PREDICTIONS]
        moves = [torch.tensor(samplers.walk(schedule, grid), dtype=torch.float64, device="cpu") for grid in times]
        draws = [
            draw(schedule, 3, torch.Generator().manual_seed(0))
            for draw in (losses.draw_times, losses.draw_sigma_times, losses.draw_logit_normal_times)
        ]
        return [*moves, *draws, *(value for group in (*at, *coefficients) for value in group), schedule.time_at(0.3)]

    with torch.device("meta"):
        found = numbers()
    assert all(torch.equal(one, other) for one, other in zip(found, numbers()))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_walk_is_where_its_batch_is_whatever_the_default_device(name):
    schedule = on(name)
    x = samplers.start_noise((5, 2), torch.Generator().manual_seed(0), torch.float64)

    def sample() -> torch.Tensor:
        denoiser = guidance.classifier_free(denoise.exact(RING, schedule), lambda xt, t: 0.5 * xt, 1.5)
        return SAMPLERS[name](denoiser, schedule, x, samplers.uniform_times(schedule, 5), samplers.seeded(range(5)))

    with torch.device("meta"):
        found = sample()
    assert torch.equal(found, sample())


def test_the_ode_and_the_bound_are_where_their_batch_is_whatever_the_default_device(generator):
    x, flow, steps = torch.randn(3, 2, generator=generator).clamp(-1, 1), schedules.Flow(), schedules.linear(8)

    def numbers() -> list[torch.Tensor]:
        seed, loose = torch.Generator().manual_seed(0), {"rtol": 1e-2, "atol": 1e-2}
        exact = denoise.exact(RING, flow)
        return [
            samplers.probability_flow(exact, flow, x, **loose),
            samplers.encode(exact, flow, x, **loose),
            samplers.log_likelihood(exact, flow, x, **loose),
            losses.vlb(denoise.exact(RING, steps), steps, x, seed).total(),
            editing.slerp(x, x.flip(0), 0.3),
            editing.sdedit(flow, x, [1.0, 0.5, 0.0], strength=0.5, generator=seed).xt,
        ]

    with torch.device("meta"):
        found = numbers()
    assert all(torch.equal(one, other) for one, other in zip(found, numbers()))
