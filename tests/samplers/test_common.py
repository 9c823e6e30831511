"""What the samplers share, and what holds for each of them."""

from itertools import pairwise

import pytest
import torch

from diffusion_book import denoise, schedules
from diffusion_book.data import ring_of_gaussians
from diffusion_book.samplers import Step, ddim, ddpm, start_noise, uniform_times
from diffusion_book.samplers.common import denoise_at

SCHEDULE = schedules.linear(100)
ZERO_SNR = schedules.zero_terminal_snr(SCHEDULE)
RING = ring_of_gaussians()
GRIDS = [[100, 0], [100, 1, 0], uniform_times(SCHEDULE, 7), uniform_times(SCHEDULE, 100)]

SAMPLERS = {
    "ddpm": lambda d, s, x, times, g, callback=None: ddpm(d, s, x, times, g, callback=callback),
    "ddpm-large": lambda d, s, x, times, g, callback=None: ddpm(d, s, x, times, g, "large", callback=callback),
    "ddim": lambda d, s, x, times, g, callback=None: ddim(d, s, x, times, callback=callback),
    "ddim-half": lambda d, s, x, times, g, callback=None: ddim(d, s, x, times, 0.5, g, callback=callback),
    "ddim-one": lambda d, s, x, times, g, callback=None: ddim(d, s, x, times, 1.0, g, callback=callback),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


def noise(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return start_noise((5, 2), generator, dtype), generator


@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.cosine(100), ZERO_SNR], ids=repr)
@pytest.mark.parametrize("times", GRIDS, ids=len)
@every_sampler
def test_data_at_one_point_is_found_exactly(sampler, times, schedule):
    """The denoiser of a data set with one member knows the answer; a last step that left noise would miss it."""
    point = torch.tensor([0.3, -1.2], dtype=torch.float64)
    x, generator = noise(0)
    assert torch.equal(sampler(lambda xt, t: point.expand_as(xt), schedule, x, times, generator), point.expand(5, 2))


@every_sampler
def test_the_last_step_returns_the_denoised_x0(sampler):
    steps: list[Step] = []
    x, generator = noise(0)
    x0 = sampler(denoise.exact(RING, SCHEDULE), SCHEDULE, x, uniform_times(SCHEDULE, 9), generator, steps.append)
    assert torch.equal(x0, steps[-1].x0_hat)


@every_sampler
def test_the_callback_sees_every_step(sampler):
    steps: list[Step] = []
    times = uniform_times(SCHEDULE, 9)
    x, generator = noise(1)
    x0 = sampler(denoise.exact(RING, SCHEDULE), SCHEDULE, x, times, generator, steps.append)
    assert [(step.t, step.s) for step in steps] == list(pairwise(times))
    assert torch.equal(steps[-1].xs, x0)
    assert len({step.xs.data_ptr() for step in steps}) == 9  # each keeps its own picture
    assert all(step.xs.shape == step.x0_hat.shape == x.shape for step in steps)


@every_sampler
def test_the_denoiser_is_asked_at_the_times_of_the_grid(sampler):
    """A step that disagrees with its grid: each x̂0 must be asked for at the time that x_t is at."""
    asked, steps = [], []
    times = [100, 63, 20, 3, 0]
    exact = denoise.exact(RING, SCHEDULE)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.dtype == torch.int64
        assert t.shape == (5,)
        asked.append((int(t[0]), xt))
        return exact(xt, t)

    x, generator = noise(2)
    sampler(denoiser, SCHEDULE, x, times, generator, steps.append)
    assert [t for t, _ in asked] == times[:-1]
    # What is denoised next is what the last step arrived at, at that time.
    assert all(step.s == t and torch.equal(step.xs, xt) for step, (t, xt) in zip(steps, asked[1:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_sampler
def test_what_goes_in_as_float64_comes_out_as_float64(sampler, dtype):
    x, generator = noise(3, dtype)
    assert sampler(denoise.exact(RING, SCHEDULE), SCHEDULE, x, uniform_times(SCHEDULE, 9), generator).dtype == dtype


@pytest.mark.parametrize("times", GRIDS, ids=len)
def test_single_precision_follows_double(times):
    """A contracting denoiser, so that nothing but the rounding of each step can differ."""
    x, _ = noise(4)
    single, double = (ddim(lambda xt, t: xt.tanh(), SCHEDULE, x.to(dtype), times) for dtype in (torch.float32, x.dtype))
    # x̂0 is at most 1 and ε̂ is x_t/b: a hundred steps of a few roundings, magnified by 1/b ≤ 100 at the end.
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


@every_sampler
def test_a_seed_gives_one_picture(sampler):
    first, second, other = (
        sampler(denoise.exact(RING, SCHEDULE), SCHEDULE, x, uniform_times(SCHEDULE, 9), generator)
        for x, generator in map(noise, (5, 5, 6))
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@every_sampler
def test_the_start_is_left_as_it_was(sampler):
    x, generator = noise(7)
    before = x.clone()
    sampler(denoise.exact(RING, SCHEDULE), SCHEDULE, x, uniform_times(SCHEDULE, 5), generator)
    assert torch.equal(x, before)


@every_sampler
def test_images_of_any_shape_are_sampled(sampler, generator):
    for shape in ((1, 1), (3,), (2, 3, 4, 4), (2, 1, 3, 2, 2)):
        x = start_noise(shape, generator)
        found = sampler(lambda xt, t: 0.5 * xt, SCHEDULE, x, uniform_times(SCHEDULE, 4), generator)
        assert found.shape == shape


@every_sampler
def test_every_sampler_walks_a_schedule_that_ends_in_pure_noise(sampler):
    """Zero terminal SNR: σ_T is infinite and a_T is zero, and nothing may divide by it."""
    x, generator = noise(8)
    assert bool(torch.isfinite(sampler(denoise.exact(RING, ZERO_SNR), ZERO_SNR, x, [100, 50, 1, 0], generator)).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@every_sampler
def test_nan_from_the_network_stops_the_walk_and_names_the_time(sampler, bad):
    """NaN, then black images, under mixed precision: the first bad number is reported where it appears."""

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.where(t[:, None] <= 40, bad, 0.0).expand_as(xt)

    x, generator = noise(9)
    with pytest.raises(FloatingPointError, match="NaN or infinity at t = 40 \(step 3 of 4\); look at its output"):
        sampler(denoiser, SCHEDULE, x, [100, 80, 40, 20, 0], generator)


@every_sampler
def test_a_denoiser_of_another_shape_is_refused(sampler):
    x, generator = noise(10)
    with pytest.raises(ValueError, match=r"x̂0 of shape \(5, 2\), got \(5, 1\) at t = 100"):
        sampler(lambda xt, t: xt[:, :1], SCHEDULE, x, [100, 0], generator)


@every_sampler
def test_a_bad_grid_is_refused_before_the_network_is_asked(sampler):
    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the network was asked")

    x, generator = noise(11)
    for times in ([100, 50, 10], [50, 100, 0], [100.0, 0.0], [101, 0], [0]):
        with pytest.raises(ValueError, match=r"time grid|t must"):
            sampler(denoiser, SCHEDULE, x, times, generator)


@every_sampler
def test_a_start_of_integers_is_refused(sampler):
    with pytest.raises(ValueError, match=r"a batch must be floating point, got torch\.int64"):
        sampler(lambda xt, t: xt, SCHEDULE, torch.zeros(2, 2, dtype=torch.long), [100, 0], torch.Generator())


def test_the_start_is_standard_normal_and_the_seeds_own(generator):
    x = start_noise((200, 50), generator, torch.float64)
    assert abs(x.mean().item()) < 4 / 100  # four standard errors of 10,000 draws
    assert abs(x.var().item() - 1) < 4 * 2**0.5 / 100
    again = start_noise([200, 50], torch.Generator().manual_seed(generator.initial_seed()), torch.float64, "cpu")
    assert torch.equal(x, again)


def test_denoise_at_tells_the_time_to_the_whole_batch():
    seen = []
    denoise_at(lambda xt, t: seen.append(t.tolist()) or xt, torch.zeros(3, 2), 17)
    assert seen == [[17, 17, 17]]
