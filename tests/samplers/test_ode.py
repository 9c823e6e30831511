"""The probability-flow ODE: maps with a closed form, the mixture's exact likelihood, the same answers everywhere."""

import math
import re

import pytest
import torch
from torch.distributions import Normal

from diffusion_book import denoise, schedules
from diffusion_book.data import GaussianMixture, ring_of_gaussians
from diffusion_book.process import seeded
from diffusion_book.samplers import encode, log_likelihood, probability_flow, start_noise, unipc

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
    a, b = float(schedule.a(schedule.T)), float(schedule.b(schedule.T))
    standard = (x - a * mu) / math.sqrt(a**2 * std**2 + b**2)
    # There x/a has variance s² + σ_min², and x̂0 takes s²/(s² + σ_min²) of its offset.
    exact = mu + standard * std**2 / math.sqrt(std**2 + sigma_min**2)
    denoiser = denoise.exact(gaussian(mu, std), schedule)
    found = probability_flow(denoiser, schedule, x, sigma_min, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


@every_schedule
def test_encoding_gaussian_data_has_a_closed_form(schedule, generator):
    """The same coordinates, the other way; a large σ_min, where x0 itself is what it starts from."""
    mu, std, sigma_min = 0.5, 0.4, 0.3
    x0 = gaussian(mu, std).sample(6, generator)
    a, b = float(schedule.a(schedule.T)), float(schedule.b(schedule.T))
    exact = a * mu + (x0 - mu) * math.sqrt((a**2 * std**2 + b**2) / (std**2 + sigma_min**2))
    found = encode(denoise.exact(gaussian(mu, std), schedule), schedule, x0, sigma_min, rtol=1e-9, atol=1e-9)
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
    back = unipc(denoise.exact(RING, flow), flow, at_ten * float(flow.a(times[0])), [*times, 0.0])
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
    a, b = float(schedule.a(schedule.T)), float(schedule.b(schedule.T))
    stretch = math.sqrt((a**2 * std**2 + b**2) / (std**2 + sigma_min**2))
    prior = Normal(0.0, schedule.prior_std)
    exact = (prior.log_prob(a * mu + stretch * (x0 - mu)) + math.log(stretch)).sum(1)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


def test_hutchinson_is_right_on_average(generator):
    schedule, x0 = schedules.Flow(), RING.sample(3, generator)
    denoiser = denoise.exact(RING, schedule)
    exact = log_likelihood(denoiser, schedule, x0)
    copies = 400
    draws = log_likelihood(denoiser, schedule, x0.repeat(copies, 1), "hutchinson", generator).reshape(copies, 3)
    assert bool((draws.std(0) > 1e-3).all())  # in two dimensions the off-diagonal of the Jacobian is seen
    assert bool(((draws.mean(0) - exact).abs() < 4 * draws.std(0) / copies**0.5 + 1e-3).all())


def test_hutchinson_is_exact_where_the_jacobian_is_diagonal(generator):
    """Signs square to one, so for an isotropic Gaussian one probe is all it takes: both ways agree for D = 2."""
    schedule, data = schedules.VP(), gaussian(0.2, 0.6)
    x0, denoiser = data.sample(5, generator), denoise.exact(data, schedule)
    found = log_likelihood(denoiser, schedule, x0, "hutchinson", generator)
    torch.testing.assert_close(found, log_likelihood(denoiser, schedule, x0), rtol=0, atol=1e-8)


def test_a_seed_belongs_to_its_example(generator):
    schedule, x0 = schedules.Flow(), RING.sample(4, generator)
    denoiser = denoise.exact(RING, schedule)
    together = log_likelihood(denoiser, schedule, x0, "hutchinson", seeded([3, 1, 4, 1]))
    alone = log_likelihood(denoiser, schedule, x0[2:3], "hutchinson", seeded([4]))
    # The solver's steps are those that the whole batch needs, to 1e-5.
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-3)


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
    with pytest.raises(ValueError, match=r"differentiable in x_t, .* under torch\.no_grad\?"):
        log_likelihood(torch.no_grad()(network), schedule, torch.zeros(1, 2))


@pytest.mark.parametrize("function", [probability_flow, encode, log_likelihood])
def test_a_discrete_schedule_is_refused(function):
    with pytest.raises(ValueError, match=re.escape("pass schedule.continuous(), also to the denoiser")):
        function(lambda xt, t: xt, schedules.linear(), torch.zeros(1, 2))


@pytest.mark.parametrize("function", [probability_flow, encode, log_likelihood])
@pytest.mark.parametrize("sigma_min", [0.0, -1.0, 100.0])
def test_an_end_outside_the_schedule_is_refused(function, sigma_min):
    with pytest.raises(ValueError, match="sigma_min must lie between 0 and σ_T, got"):
        function(lambda xt, t: xt, schedules.EDM(), torch.zeros(1, 2), sigma_min=sigma_min)


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="divergence must be 'exact' or 'hutchinson', got 'skilling'"):
        log_likelihood(lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 2), "skilling")


def test_random_signs_need_a_generator():
    with pytest.raises(ValueError, match=r"draws random signs, so pass a torch\.Generator"):
        log_likelihood(lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 2), "hutchinson")


def test_nan_is_named_with_its_time():
    with pytest.raises(FloatingPointError, match="NaN or infinity at t = 1;"):
        probability_flow(lambda xt, t: xt * math.nan, schedules.Flow(), torch.zeros(1, 2))
