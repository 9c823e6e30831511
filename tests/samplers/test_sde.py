"""Euler–Maruyama on the reverse SDE: diffusers' steps, closed forms for Gaussian data, and the right distribution."""

import math

import pytest
import torch
from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler
from diffusers.schedulers.scheduling_sde_ve import ScoreSdeVeScheduler

from diffusion_book import denoise, schedules
from diffusion_book.data import GaussianMixture, ring_of_gaussians
from diffusion_book.samplers import Step, ddim, ddpm, probability_flow, sde, start_noise, uniform_times

RING = ring_of_gaussians()


def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Any ε̂ will do to compare two samplers; this one is smooth and bounded."""
    return torch.sin(xt + 2 * t[:, None])


def one_gaussian(std: float, dimensions: int = 1) -> GaussianMixture:
    eye = torch.eye(dimensions, dtype=torch.float64)
    return GaussianMixture(
        torch.ones(1, dtype=torch.float64), torch.zeros(1, dimensions, dtype=torch.float64), std**2 * eye[None]
    )


def test_the_loop_is_the_predictor_of_diffusers_on_vp(double, generator):
    """x + (f x − g² score) dt + g √|dt| z, step by step with the same noise, but for the last step, which is x̂0."""
    theirs, schedule, n = double(ScoreSdeVpScheduler)(), schedules.VP(), 100
    theirs.set_timesteps(n)
    times = uniform_times(schedule, n)
    x = start = start_noise((4, 3), generator, torch.float64)
    noise = torch.Generator().manual_seed(7)
    for t in times[:-2]:
        at = torch.full((4,), t, dtype=torch.float64)
        x, _ = theirs.step_pred(network(x, at), x, at, generator=noise)
    seen: list[Step] = []
    denoiser = denoise.from_network(lambda xt, clock: network(xt, clock / 1000), schedule, "eps")
    sde(denoiser, schedule, start, times, generator=torch.Generator().manual_seed(7), callback=seen.append)
    torch.testing.assert_close(seen[-2].xs, x, rtol=1e-9, atol=1e-9)


def test_on_ve_diffusers_predictor_is_ancestral_sampling_and_the_limit_of_short_steps(double, generator):
    """x + (σ_t² − σ_s²) score + √(σ_t² − σ_s²) z is `ddpm` with the large variance; `sde` has g² dt in its place."""
    schedule, n = schedules.VE(0.01, 50.0), 1000
    theirs = double(ScoreSdeVeScheduler)(num_train_timesteps=n, sigma_min=0.01, sigma_max=50.0)
    sigma = theirs.discrete_sigmas
    x = start = start_noise((4, 3), generator, torch.float64, schedule=schedule)
    noise, at = torch.Generator().manual_seed(7), 1.0
    steps = 20
    for i in range(steps):
        index = n - 1 - i
        at = index / (n - 1)
        score = -x.tanh() / schedule.at(at).b
        x = theirs.step_pred(score, at + 1e-9, x, generator=noise).prev_sample
    times = [(n - 1 - i) / (n - 1) for i in range(steps + 1)] + [0.0]
    assert sigma[-1].item() == pytest.approx(50.0)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return xt - schedule.at(t).like(xt).b * xt.tanh()

    seen: dict[str, list[Step]] = {"ddpm": [], "sde": []}
    again = torch.Generator().manual_seed(7)
    ddpm(denoiser, schedule, start, times, generator=again, variance="large", callback=seen["ddpm"].append)
    again = torch.Generator().manual_seed(7)
    sde(denoiser, schedule, start, times, generator=again, callback=seen["sde"].append)
    # Their σ are in single precision: differences of σ² = 2500 are off by 3e-4 of 42, twenty times.
    torch.testing.assert_close(seen["ddpm"][steps - 1].xs, x, rtol=0, atol=1e-3)
    # σ² falls by 1.7 % in a step; g² dt is more than that by half of it.
    torch.testing.assert_close(seen["sde"][steps - 1].xs, x, rtol=0, atol=0.02 * 50)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize(
    "schedule",
    [schedules.VP(), schedules.VE(0.1, 10.0), schedules.SubVP(), schedules.Flow(), schedules.Cosine()],
    ids=repr,
)
def test_gaussian_data_have_the_right_variance_with_every_degree_of_noise(schedule, eta):
    """Everything is linear, so the variance goes through the loop exactly: one number in, the gain and the noise out.

    Its error at the time before the last falls as one over the number of steps. Where a(T) = 0 the first steps are as
    long beside g² whatever their number, and a degree η of noise forgets their error like σ^{−2η²}, with σ = 1/Δt.
    """
    std, errors = 0.5, []
    for steps in (200, 400):
        times = uniform_times(schedule, steps)
        keep = [i for i, t in enumerate(times) if t >= 0.1 * schedule.T]
        times = [times[i] for i in keep] + [0.0]
        _, a_T, b_T = map(float, schedule.at(schedule.T))
        seen: list[list[Step]] = [[], []]
        denoiser = denoise.exact(one_gaussian(std), schedule)
        for x, kept in zip((0.0, 1.0), seen):
            start = torch.full((1, 1), x, dtype=torch.float64)
            again = torch.Generator().manual_seed(0)
            sde(denoiser, schedule, start, times, eta=eta, generator=again, callback=kept.append)
        gains = [(b.xs - a.xs).item() for a, b in zip(*seen)]  # of the start, up to each time
        draws = torch.Generator().manual_seed(0)
        variance, before, noisy = a_T**2 * std**2 + b_T**2, 1.0, 0.0
        for gain, quiet in zip(gains[:-1], seen[0]):
            z = torch.randn(1, 1, generator=draws, dtype=torch.float64).item() if eta > 0 else 1.0
            here = quiet.xs.item()
            amount = ((here - gain / before * noisy) / z) ** 2
            variance = (gain / before) ** 2 * variance + amount
            before, noisy = gain, here
        _, a, b = map(float, schedule.at(times[-2]))
        errors.append(abs(variance / (a**2 * std**2 + b**2) - 1))
    assert errors[1] < 0.05
    order = min(1, 2 * eta**2) if schedule.ends_in_noise and eta > 0 else 1
    assert errors[1] < (0.5**order + 0.15) * errors[0]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_ring_is_drawn(eta, generator):
    schedule, n = schedules.VP(), 4000
    x = start_noise((n, 2), generator, torch.float64)
    found = sde(denoise.exact(RING, schedule), schedule, x, uniform_times(schedule, 500), eta=eta, generator=generator)
    real = RING.sample(n, generator)
    distance = torch.cdist(found, RING.mean)
    share = torch.bincount(distance.argmin(1), minlength=8) / n
    assert (share - 1 / 8).abs().max().item() < 4.5 * math.sqrt(1 / 8 * 7 / 8 / n)
    assert found.norm(dim=1).mean().item() == pytest.approx(real.norm(dim=1).mean().item(), abs=0.02)


def test_without_noise_it_is_eulers_method_of_the_ode(generator):
    """Of order one: beside the adaptive solver its error halves with the step. On `Flow` it is DDIM to rounding."""
    vp, flow = schedules.VP(), schedules.Flow()
    x = start_noise((6, 2), generator, torch.float64)
    denoiser = denoise.exact(ring_of_gaussians(count=3, radius=1.0, std=0.4), vp)
    exact = probability_flow(denoiser, vp, x, sigma_min=1e-4, rtol=1e-10, atol=1e-10)
    even = torch.linspace(1, 0, 801, dtype=torch.float64) ** 2  # shorter near the data, where ḃ has no bound
    errors = [
        (sde(denoiser, vp, x, even[:: 800 // steps].tolist(), eta=0.0) - exact).abs().max() for steps in (400, 800)
    ]
    assert errors[1] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.5)
    denoiser, times = denoise.exact(RING, flow), uniform_times(flow, 20)
    torch.testing.assert_close(sde(denoiser, flow, x, times, eta=0.0), ddim(denoiser, flow, x, times))


def test_a_step_too_long_for_its_noise_takes_less(generator):
    """On Flow's first step g is infinite, and of b² at most is drawn; so it stays where noise is."""
    schedule, n = schedules.Flow(), 20_000
    x = start_noise((n, 1), generator, torch.float64)
    steps: list[Step] = []
    sde(
        denoise.exact(one_gaussian(0.5), schedule), schedule, x, [1.0, 0.9, 0.0], generator=generator,
        callback=steps.append,
    )  # fmt: skip
    # u = −x there, so x becomes 0.9 x; then ½ b² score = −½ x and noise of variance 1.
    assert steps[0].xs.var().item() == pytest.approx(0.4**2 + 1, rel=4 * math.sqrt(2 / n))


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf])
def test_a_degree_of_noise_that_is_none_is_refused(eta):
    with pytest.raises(ValueError, match=r"eta must be finite and not negative, got .*; 0 is the ODE, 1 is Anderson"):
        sde(lambda xt, t: xt, schedules.VP(), torch.zeros(1, 1), [0.5, 0.0], eta=eta, generator=torch.Generator())


def test_noise_needs_a_generator():
    with pytest.raises(ValueError, match=r"eta > 0 draws noise, so pass a torch.Generator"):
        sde(lambda xt, t: xt, schedules.VP(), torch.zeros(1, 1), [0.5, 0.0])
