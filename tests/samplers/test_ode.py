"""The probability-flow ODE: maps with a closed form, the mixture's exact likelihood, the same answers everywhere."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import Normal

from diffusion_book import denoise, schedules
from diffusion_book._random import seeded
from diffusion_book.data import GaussianMixture, ring_of_gaussians
from diffusion_book.samplers import Step, encode, log_likelihood, probability_flow, start_noise, unipc

RING = ring_of_gaussians(count=3, radius=1.0, std=0.4)
CONTINUOUS = [
    schedules.Flow(),
    schedules.VP(),
    schedules.EDM(),
    schedules.Cosine(),
    schedules.Cosine(shift=0.3),
    schedules.linear().continuous(),
]
every_schedule = pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)


def gaussian(mu: float, std: float, dimensions: int = 2) -> GaussianMixture:
    eye = torch.eye(dimensions, dtype=torch.float64)
    mean = torch.full((1, dimensions), mu, dtype=torch.float64)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), mean, std**2 * eye[None])


@every_schedule
def test_gaussian_data_keep_their_standard_coordinates(schedule, generator):
    """(x_0 − μ)/s' = (x_T − a_T μ)/√(a_T² s² + b_T²), with s' that of σ_min's last x̂0."""
    mu, std, sigma_min = 0.5, 0.4, 1e-3
    x = start_noise((6, 2), generator, torch.float64, schedule=schedule)
    _, a, b = map(float, schedule.at(schedule.T))
    standard = (x - a * mu) / math.sqrt(a**2 * std**2 + b**2)
    # There x/a has variance s² + σ_min², and x̂0 takes s²/(s² + σ_min²) of its offset.
    exact = mu + standard * std**2 / math.sqrt(std**2 + sigma_min**2)
    denoiser = denoise.exact(gaussian(mu, std), schedule)
    found = probability_flow(denoiser, schedule, x, sigma_min=sigma_min, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


@every_schedule
def test_encoding_gaussian_data_has_a_closed_form(schedule, generator):
    """The same coordinates, the other way; a large σ_min, where x0 itself is what it starts from."""
    mu, std, sigma_min = 0.5, 0.4, 0.3
    x0 = gaussian(mu, std).sample(6, generator)
    _, a, b = map(float, schedule.at(schedule.T))
    exact = a * mu + (x0 - mu) * math.sqrt((a**2 * std**2 + b**2) / (std**2 + sigma_min**2))
    found = encode(denoise.exact(gaussian(mu, std), schedule), schedule, x0, sigma_min=sigma_min, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found / schedule.prior_std, exact / schedule.prior_std, rtol=0, atol=1e-6)


@every_schedule
def test_there_and_back(schedule, generator):
    x0 = RING.sample(6, generator)
    denoiser = denoise.exact(RING, schedule)
    xt = encode(denoiser, schedule, x0, rtol=1e-8, atol=1e-8)
    back = probability_flow(denoiser, schedule, xt, rtol=1e-8, atol=1e-8)
    # The start at σ_min is x0 itself and the end is x̂0, which differ by σ_min² times the score: 1e-6 · |x|/0.16.
    torch.testing.assert_close(back, x0, rtol=0, atol=5e-5)


def test_every_schedule_gives_the_same_map_up_to_scale(generator):
    """Those that end in nothing but noise, to a few parts in 1,000: VP ends at σ = 152, EDM at 80."""
    x = start_noise((6, 2), generator, torch.float64)
    found = [
        probability_flow(denoise.exact(RING, schedule), schedule, schedule.prior_std * x, rtol=1e-8, atol=1e-8)
        for schedule in CONTINUOUS
    ]
    # Flow and the two Cosines have no signal at T: one and the same ODE in φ.
    for other in (found[3], found[4]):
        torch.testing.assert_close(found[0], other, rtol=0, atol=1e-5)
    for other in (found[1], found[2], found[5]):
        torch.testing.assert_close(found[0], other, rtol=0, atol=0.05)


def test_a_finite_end_is_the_same_point_of_the_one_ode(generator):
    """EDM stopped at σ_max agrees with Flow started at that angle: encode one, decode with the other."""
    edm, flow = schedules.EDM(sigma_max=10.0), schedules.Flow()
    x0 = RING.sample(5, generator)
    at_ten = encode(denoise.exact(RING, edm), edm, x0, rtol=1e-9, atol=1e-9)
    assert at_ten.std().item() == pytest.approx(10, rel=0.6)
    # From σ = 10 on along the Flow ODE, by its own sampler in small steps.
    times = flow.time_at(-2 * torch.linspace(math.log(10), math.log(1e-3), 400, dtype=torch.float64)).tolist()
    back = unipc(denoise.exact(RING, flow), flow, at_ten * float(flow.at(times[0]).a), [*times, 0.0])
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-4)


@every_schedule
def test_the_likelihood_is_that_of_the_mixture(schedule, generator):
    x0 = RING.sample(20, generator)
    found = log_likelihood(denoise.exact(RING, schedule), schedule, x0, rtol=1e-6, atol=1e-6)
    assert found.shape == (20,)
    assert found.dtype == torch.float64
    # The model starts from N(0, prior_std²), not from the marginal at T, whose variance is off by at most
    # a_T² = 2e-4 of it. The ring's mean is 0, and x no further out than four standard deviations.
    torch.testing.assert_close(found, RING.log_prob(x0), rtol=0, atol=5e-3)


def test_every_schedule_gives_the_same_likelihood(generator):
    x0 = RING.sample(10, generator)
    first, *others = (
        log_likelihood(denoise.exact(RING, schedule), schedule, x0, rtol=1e-7, atol=1e-7) for schedule in CONTINUOUS
    )
    for schedule, other in zip(CONTINUOUS[1:], others):
        # Where no signal is left at T the answers are equal; elsewhere the prior differs by what is left.
        torch.testing.assert_close(first, other, rtol=0, atol=1e-5 if schedule.ends_in_noise else 5e-3)


@every_schedule
def test_the_likelihood_of_one_gaussian_by_its_own_closed_form(schedule, generator):
    """The ODE is linear there: its density is that of the prior, whatever it leaves out at T, through x_T(x0)."""
    mu, std, sigma_min = -0.3, 0.7, 0.05
    x0 = gaussian(mu, std, 3).sample(8, generator)
    found = log_likelihood(
        denoise.exact(gaussian(mu, std, 3), schedule), schedule, x0, sigma_min=sigma_min, rtol=1e-9, atol=1e-9
    )
    _, a, b = map(float, schedule.at(schedule.T))
    stretch = math.sqrt((a**2 * std**2 + b**2) / (std**2 + sigma_min**2))
    prior = Normal(0.0, schedule.prior_std)
    exact = (prior.log_prob(a * mu + stretch * (x0 - mu)) + math.log(stretch)).sum(1)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


def test_hutchinson_is_right_on_average(generator):
    schedule, x0 = schedules.Flow(), RING.sample(3, generator)
    denoiser = denoise.exact(RING, schedule)
    exact = log_likelihood(denoiser, schedule, x0)
    copies = 400
    draws = log_likelihood(
        denoiser, schedule, x0.repeat(copies, 1), divergence="hutchinson", generator=generator
    ).reshape(copies, 3)
    assert bool((draws.std(0) > 1e-3).all())  # in two dimensions the off-diagonal of the Jacobian is seen
    assert bool(((draws.mean(0) - exact).abs() < 4 * draws.std(0) / copies**0.5 + 1e-3).all())


def test_hutchinson_is_exact_where_the_jacobian_is_diagonal(generator):
    """Signs square to one, so for an isotropic Gaussian one probe is all it takes: both ways agree for D = 2."""
    schedule, data = schedules.VP(), gaussian(0.2, 0.6)
    x0, denoiser = data.sample(5, generator), denoise.exact(data, schedule)
    found = log_likelihood(denoiser, schedule, x0, divergence="hutchinson", generator=generator)
    torch.testing.assert_close(found, log_likelihood(denoiser, schedule, x0), rtol=0, atol=1e-8)


@every_schedule
@pytest.mark.parametrize("seeds", [[7], [3, 7, 5], [1, 2, 3, 4, 5, 6, 7]], ids=len)
def test_an_examples_seed_is_its_own_in_any_batch_and_position(schedule, seeds):
    """Alone, amid three and at the end of seven, whose steps are others: to rounding, at a tolerance of 1e-3."""
    denoiser, place = denoise.exact(RING, schedule), seeds.index(7)

    def everything(seeds: list[int]) -> list[torch.Tensor]:
        x = start_noise((len(seeds), 2), seeded(seeds), torch.float64, schedule=schedule)
        x0 = probability_flow(denoiser, schedule, x, rtol=1e-3, atol=1e-3)
        x_T = encode(denoiser, schedule, x0, rtol=1e-3, atol=1e-3) / schedule.prior_std
        log_p = log_likelihood(
            denoiser, schedule, x0, divergence="hutchinson", generator=seeded(seeds), rtol=1e-3, atol=1e-3
        )
        return [x0, x_T, log_p]

    for together, alone in zip(everything(seeds), everything([7])):
        torch.testing.assert_close(together[place], alone[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
@pytest.mark.parametrize("function", [probability_flow, encode])
def test_its_steps_are_those_of_scipy(function, tolerance, generator):
    """The same angles and the same points, for each example: of scipy's RK45 on that example alone."""
    schedule, denoiser, sigma_min = schedules.Flow(), denoise.exact(RING, schedules.Flow()), 1e-2
    x, seen = start_noise((4, 2), generator, torch.float64), []
    function(denoiser, schedule, x, sigma_min=sigma_min, rtol=tolerance, atol=tolerance, callback=seen.append)

    def velocity(phi: float, y: np.ndarray) -> np.ndarray:
        a, b = math.cos(phi), math.sin(phi)
        x0_hat = RING.posterior_mean(torch.from_numpy(y)[None], *torch.tensor([a, b], dtype=torch.float64))[0]
        return (a * y - x0_hat.numpy()) / b

    ends = [math.atan(sigma_min), math.pi / 2]
    back = function is probability_flow
    for example in range(4):
        start = (1.0 if back else math.cos(ends[0])) * x[example].numpy()
        first_step = (ends[1] - ends[0]) / 100
        theirs = solve_ivp(
            velocity, ends[::-1] if back else ends, start, rtol=tolerance, atol=tolerance, first_step=first_step
        )
        ours = [step for step in seen[: -1 if back else None] if step.s[example] != step.t[example]]
        assert len(ours) == len(theirs.t) - 1
        t = torch.stack([step.s[example] for step in ours])
        phi = torch.atan2(t, 1 - t)
        torch.testing.assert_close(phi, torch.from_numpy(theirs.t[1:]), rtol=0, atol=1e-9)
        y = torch.stack([step.xs[example] for step in ours]) / torch.hypot(t, 1 - t)[:, None]
        torch.testing.assert_close(y, torch.from_numpy(theirs.y.T[1:]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_schedule
@pytest.mark.parametrize("function", [probability_flow, encode])
def test_the_callback_is_told_of_each_step_without_copies(function, schedule, dtype, generator):
    """From where the last one ended, for each example; with the x̂0 at its end; and it costs no evaluation."""
    exact, calls = denoise.exact(RING, schedule), []

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(t)
        return exact(xt, t)

    back = function is probability_flow
    x = start_noise((3, 2), generator, dtype, schedule=schedule) if back else RING.sample(3, generator).to(dtype)
    silent = function(denoiser, schedule, x, rtol=1e-3, atol=1e-3)
    evaluations, steps, copies = len(calls), [], []

    def callback(step: Step) -> None:
        steps.append(step)
        copies.append([step.xs.clone(), step.x0_hat.clone()])

    found = function(denoiser, schedule, x, rtol=1e-3, atol=1e-3, callback=callback)
    assert torch.equal(found, silent)
    assert len(calls) == 2 * evaluations
    last = steps.pop() if back else steps[-1]
    assert evaluations == 1 + 6 * len(steps)
    assert torch.equal(last.xs, found)
    ends = [float(schedule.time_at(-2 * math.log(1e-3))), schedule.T]
    for before, step in pairwise(steps):
        assert torch.equal(step.t, before.s)
    for t, end in ((steps[0].t, ends[back]), (steps[-1].s, ends[not back])):
        torch.testing.assert_close(t, torch.full((3,), end, dtype=torch.float64), rtol=1e-9, atol=0)
    if back:
        assert torch.equal(last.s, torch.zeros(3, dtype=torch.float64))
        assert torch.equal(last.x0_hat, found)
        assert torch.equal(last.t, steps[-1].s)
    for step, (xs, x0_hat) in zip(steps, copies):
        assert bool(((step.s - step.t) * (-1 if back else 1) >= 0).all())
        assert torch.equal(step.xs, xs)
        assert torch.equal(step.x0_hat, x0_hat)
        assert step.xs.dtype == step.x0_hat.dtype == dtype
        # x̂0 is had from v and not asked again: a rounding of x_t, magnified by the denoiser where noise is little.
        torch.testing.assert_close(step.x0_hat.double(), exact(xs.double(), step.s), rtol=1e-5, atol=1e-5)
    assert len({step.xs.data_ptr() for step in steps}) == len(steps)


@pytest.mark.parametrize("function", [probability_flow, encode, log_likelihood])
def test_the_tolerances_and_the_end_are_the_usual_ones_by_default(function, generator):
    schedule, x = schedules.VP(), start_noise((3, 2), generator, torch.float64)
    denoiser = denoise.exact(RING, schedule)
    usual = function(denoiser, schedule, x, sigma_min=1e-3, rtol=1e-5, atol=1e-5)
    assert torch.equal(function(denoiser, schedule, x), usual)


@pytest.mark.parametrize("shape", [(3,), (0, 2), (2, 1, 3, 2, 2)])
def test_any_shape_goes_there_and_back(shape, generator):
    schedule, x = schedules.VP(), start_noise(shape, generator, torch.float64)
    x0 = probability_flow(lambda xt, t: 0.5 * xt, schedule, x)
    torch.testing.assert_close(encode(lambda xt, t: 0.5 * xt, schedule, x0, sigma_min=0.1).shape, x.shape)


def test_a_network_is_asked_in_the_dtype_of_the_batch(generator):
    seen = set()
    schedule = schedules.Cosine()
    exact = denoise.exact(RING, schedule)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.add((xt.dtype, t.dtype, t.shape))
        return exact(xt, t)

    x = start_noise((3, 2), generator)
    x0 = probability_flow(denoiser, schedule, x, rtol=1e-3, atol=1e-3)
    assert encode(denoiser, schedule, x0, rtol=1e-3, atol=1e-3).dtype == x0.dtype == torch.float32
    log_likelihood(denoiser, schedule, x0, rtol=1e-2, atol=1e-2)
    assert seen == {(torch.float32, torch.float64, (3,))}


def test_images_keep_their_shape(generator):
    schedule = schedules.Flow()
    x = start_noise((2, 1, 3, 3), generator)
    x0 = probability_flow(lambda xt, t: 0.5 * xt, schedule, x, rtol=1e-3, atol=1e-3)
    assert x0.shape == encode(lambda xt, t: 0.5 * xt, schedule, x0, rtol=1e-3, atol=1e-3).shape == x.shape
    assert log_likelihood(lambda xt, t: 0.5 * xt, schedule, x0, rtol=1e-2, atol=1e-2).shape == (2,)


def test_a_denoiser_without_gradients_has_no_likelihood():
    """Its divergence would come out as that of the other half of the velocity, and the likelihood wrong."""
    schedule = schedules.Flow()
    network = denoise.exact(RING, schedule)
    with pytest.raises(ValueError, match=r"differentiable in x_t, .* under torch\.no_grad or inference_mode\?"):
        log_likelihood(torch.no_grad()(network), schedule, torch.zeros(1, 2))


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_likelihood_can_be_had_in_inference_mode(divergence, generator):
    schedule = schedules.Flow()
    network = denoise.from_network(lambda xt, t: xt.sin() * t[:, None], schedule, "v")
    x0 = torch.randn(3, 2, generator=generator)

    def found(x0: torch.Tensor) -> torch.Tensor:
        probe = torch.Generator().manual_seed(1) if divergence == "hutchinson" else None
        return log_likelihood(network, schedule, x0, divergence=divergence, generator=probe, rtol=1e-3, atol=1e-3)

    expected = found(x0)
    with torch.inference_mode():
        assert torch.equal(found(x0), expected)
        assert torch.equal(found(x0.clone()), expected)
    with pytest.raises(ValueError, match=r"differentiable in x_t, .* under torch\.no_grad or inference_mode\?"):
        log_likelihood(torch.inference_mode()(network), schedule, x0)


@pytest.mark.parametrize("function", [probability_flow, encode, log_likelihood])
def test_a_discrete_schedule_is_refused(function):
    with pytest.raises(ValueError, match=re.escape("pass schedule.continuous(), also to the denoiser")):
        function(lambda xt, t: xt, schedules.linear(), torch.zeros(1, 2))


@pytest.mark.parametrize("function", [probability_flow, encode, log_likelihood])
@pytest.mark.parametrize("sigma_min", [0.0, -1.0, 100.0, math.nan])
def test_an_end_outside_the_schedule_is_refused(function, sigma_min):
    with pytest.raises(ValueError, match="sigma_min must lie between 0 and σ_T, got"):
        function(lambda xt, t: xt, schedules.EDM(), torch.zeros(1, 2), sigma_min=sigma_min)


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="divergence must be 'exact' or 'hutchinson', got 'skilling'"):
        log_likelihood(lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 2), divergence="skilling")


def test_random_signs_need_a_generator():
    with pytest.raises(ValueError, match=r"draws random signs, so pass a torch\.Generator"):
        log_likelihood(lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 2), divergence="hutchinson")


@pytest.mark.parametrize("function", [probability_flow, encode, log_likelihood])
def test_nan_is_named_with_its_time_and_step(function):
    """The time is that of the example with the NaN, whose neighbours are elsewhere."""
    start = 1.0 if function is probability_flow else math.sin(math.atan(1e-3)) / (1 + 1e-3) * math.hypot(1, 1e-3)
    with pytest.raises(FloatingPointError, match=re.escape(f"NaN or infinity at t = {start:g} (step 1); look")):
        function(lambda xt, t: xt * math.nan, schedules.Flow(), torch.ones(1, 2))
    schedule, asked = schedules.Flow(), []
    exact = denoise.exact(RING, schedule)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(t)
        worse = torch.tensor([False, True, False]) & (len(asked) == 33)  # step 6: one evaluation, and six for each
        return torch.where(worse[:, None], math.nan, exact(xt, t))

    x = torch.tensor([[0.1, 0.2], [1.5, -0.3], [-4.0, 2.0]], dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="NaN or infinity") as told:
        function(denoiser, schedule, x)
    t = asked[-1].tolist()
    assert len({*t}) == 3
    assert f"at t = {t[1]:g} (step 6); look" in str(told.value)


@pytest.mark.parametrize("function", [probability_flow, encode, log_likelihood])
def test_a_batch_of_integers_is_refused(function):
    with pytest.raises(ValueError, match=r"a batch must be floating point, got torch\.int64"):
        function(lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.parametrize("bad", [0.0, -1e-5, math.nan, math.inf])
@pytest.mark.parametrize("function", [probability_flow, encode, log_likelihood])
def test_a_tolerance_that_is_none_is_refused(function, bad):
    for tolerances in ({"rtol": bad}, {"atol": bad}):
        with pytest.raises(ValueError, match="rtol and atol must be positive, got"):
            function(lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 2), **tolerances)


def test_a_solution_that_runs_off_to_infinity_is_told():
    """dy/dφ = y²/… is infinite at a finite φ: every step is too long there, and the walk ends rather than hangs."""
    with pytest.raises(RuntimeError, match="the ODE solver finds no step small enough at φ = "):
        probability_flow(lambda xt, t: xt**2, schedules.Flow(), torch.full((1, 1), 3.0, dtype=torch.float64))
