"""The equations of chapter 6, each against a route that does not use it."""

import math
from fractions import Fraction

import pytest
import torch

from diffusion_book import data, predictions, process, samplers, schedules, training

COSINE = schedules.cosine()


def randn(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.equation("eq-building-log-tables", by="schedules.Discrete")
@pytest.mark.parametrize("schedule", [schedules.linear(60), schedules.cosine(60)], ids=["linear", "cosine"])
def test_tables_from_logarithms_are_the_exact_product(schedule):
    alpha_bar = Fraction(1)
    for t in range(1, schedule.T + 1):
        alpha_bar *= 1 - Fraction(float(schedule.beta[t]))  # rational arithmetic: no rounding at all
        assert float(schedule.at(t).a) == pytest.approx(math.sqrt(alpha_bar), rel=1e-13)
        assert float(schedule.at(t).b) == pytest.approx(math.sqrt(1 - alpha_bar), rel=1e-13)


@pytest.mark.equation("eq-building-v", by="predictions.to_x0")
@pytest.mark.parametrize("t", [1, 250, 500, 999])
def test_data_and_noise_are_read_off_v_as_the_two_equations_say(t, generator):
    """x_t = a x_0 + b ε and v = a ε − b x_0 are two equations for two unknowns: solve them, and compare."""
    a, b = COSINE.at(t).a, COSINE.at(t).b
    system = torch.stack([torch.stack([a, b]), torch.stack([-b, a])])
    given = randn(2, 30, generator=generator)  # x_t and v
    x0, eps = torch.linalg.solve(system, given)
    xt, v = given
    torch.testing.assert_close(a * xt - b * v, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(b * xt + a * v, eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(predictions.to_x0("v", v[:, None], COSINE, xt[:, None], t)[:, 0], x0)


@pytest.mark.equation("eq-building-v-splits")
def test_error_in_v_is_the_sum_of_the_errors_in_x0_and_noise(generator):
    x0, eps, v_hat = (randn(50, 3, generator=generator) for _ in range(3))
    t = torch.randint(1, COSINE.T, (50,), generator=generator)
    xt = process.add_noise(COSINE, x0, t, eps)
    v = predictions.target("v", COSINE, x0, eps, t)
    x0_hat = predictions.to_x0("v", v_hat, COSINE, xt, t)
    eps_hat = predictions.from_x0("eps", x0_hat, COSINE, xt, t)  # by subtraction, not by the formula for ε
    split = ((x0_hat - x0) ** 2).sum(1) + ((eps_hat - eps) ** 2).sum(1)
    torch.testing.assert_close(split, ((v_hat - v) ** 2).sum(1), rtol=1e-7, atol=1e-9)


@pytest.mark.equation("eq-building-first-loss")
@pytest.mark.parametrize("t", [50, 500, 900])
def test_first_loss_of_a_network_that_outputs_zero(t, generator):
    n = 200_000
    x0 = 0.7 + randn(n, 1, generator=generator).abs()  # neither centred nor Gaussian: only the second moment counts
    m = 0.7**2 + 2 * 0.7 * math.sqrt(2 / math.pi) + 1
    v = predictions.target("v", COSINE, x0, randn(n, 1, generator=generator), t)
    _, a, b = map(float, COSINE.at(t))
    standard_error = float((v**2).std()) / math.sqrt(n)
    assert abs(float((v**2).mean()) - (a**2 + b**2 * m)) < 4 * standard_error


@pytest.mark.equation("eq-building-linear")
@pytest.mark.parametrize("t", [60, 400, 900])
def test_best_line_through_any_data_leaves_that_error_in_v(t, generator):
    """Fit a line with a constant by least squares, to data that are neither centred nor Gaussian."""
    n = 400_000
    x0 = 0.7 + torch.rand(n, generator=generator, dtype=torch.float64) ** 3
    s2 = 1 / 7 - 1 / 16  # E u⁶ − (E u³)² for uniform u
    a, b = float(COSINE.at(t).a), float(COSINE.at(t).b)
    eps = randn(n, generator=generator)
    xt, v = a * x0 + b * eps, a * eps - b * x0
    design = torch.stack([xt, torch.ones_like(xt)], 1)
    line = torch.linalg.lstsq(design, v[:, None]).solution
    squares = (v - (design @ line)[:, 0]) ** 2
    assert abs(float(squares.mean()) - s2 / (a**2 * s2 + b**2)) < 4 * float(squares.std()) / math.sqrt(n)


@pytest.mark.equation("eq-building-ema-unrolled")
def test_average_is_a_sum_with_geometric_weights(generator):
    d, w = 0.9, randn(31, 4, generator=generator)
    average = w[0]
    for k in range(1, 31):
        average = d * average + (1 - d) * w[k]
    unrolled = d**30 * w[0] + (1 - d) * sum(d ** (30 - k) * w[k] for k in range(1, 31))
    torch.testing.assert_close(average, unrolled)


def covariance_of_average(covariance: torch.Tensor, d: float) -> float:
    """Var of the average of steps with that covariance matrix, by following the whole matrix through the recursion."""
    n = len(covariance)
    share = torch.zeros(n, dtype=torch.float64)  # of each step, built by the recursion itself
    for k in range(n):
        share = d * share
        share[k] += 1 - d
    return float(share @ covariance @ share)


@pytest.mark.equation("eq-building-ema-variance")
@pytest.mark.parametrize("d", [0.0, 0.5, 0.97])
def test_variance_of_an_average_of_white_noise(d):
    s2 = 2.5
    measured = covariance_of_average(s2 * torch.eye(800, dtype=torch.float64), d)
    assert measured == pytest.approx((1 - d) / (1 + d) * s2, rel=1e-9)


@pytest.mark.equation("eq-building-ema-correlated")
@pytest.mark.parametrize(("d", "rho"), [(0.9, 0.0), (0.95, 0.8), (0.9, -0.5), (0.5, 0.95)])
def test_variance_of_an_average_of_correlated_noise(d, rho):
    k = torch.arange(800, dtype=torch.float64)
    covariance = torch.tensor(rho, dtype=torch.float64) ** (k[:, None] - k).abs()
    factor = (1 - d) / (1 + d) * (1 + d * rho) / (1 - d * rho)
    assert covariance_of_average(covariance, d) == pytest.approx(factor, rel=1e-9)


@pytest.mark.equation("eq-building-half-life")
@pytest.mark.parametrize("d", [0.9, 0.99, 0.9999])
def test_half_life_is_where_the_influence_of_a_weight_is_halved(d):
    influence, steps = 1.0, 0
    while influence > 0.5:
        influence, steps = influence * d, steps + 1
    exact = math.log(2) / -math.log(d)
    assert steps - 1 < exact <= steps
    assert exact == pytest.approx(0.69 / (1 - d), rel=0.06)


@pytest.mark.equation("eq-building-warm-up", by="training.EMA")
@pytest.mark.parametrize("n", [1, 7, 100, 900])
def test_share_of_the_start_under_warm_up(n):
    share = Fraction(1)
    for k in range(n):
        share *= Fraction(1 + k, 10 + k)
    assert share == Fraction(1, math.comb(n + 9, 9))
    weight = torch.nn.Linear(1, 1, bias=False).double().requires_grad_(False)
    weight.weight.fill_(1.0)
    average = training.EMA(weight, 0.999)
    weight.weight.zero_()  # from here on there is nothing but what the average kept of the start
    for _ in range(n):
        average.update(weight)
    assert float(average.network.weight) == pytest.approx(float(share), rel=1e-9)


@pytest.mark.equation("eq-building-ancestral", by="process.posterior samplers.ddpm")
@pytest.mark.parametrize(("t", "s"), [(1000, 980), (700, 300), (2, 1), (40, 0)])
def test_ancestral_step_is_the_conditional_of_a_joint_gaussian(t, s, generator):
    """Given x_0, the chain makes (x_s, x_t) jointly Gaussian; condition x_s on x_t by the joint's covariance."""
    (_, a_t, b_t), (_, a_s, b_s) = (map(float, COSINE.at(i)) for i in (t, s))
    a_ts = math.prod(float(1 - COSINE.beta[i]) ** 0.5 for i in range(s + 1, t + 1))  # what the steps between keep
    variance_s, covariance, variance_t = b_s**2, a_ts * b_s**2, b_t**2
    x0, xt = randn(2, 20, generator=generator)
    mean = a_s * x0 + covariance / variance_t * (xt - a_t * x0)
    variance = variance_s - covariance**2 / variance_t
    b2_ts = b_t**2 - a_ts**2 * b_s**2
    torch.testing.assert_close((a_s * b2_ts * x0 + a_ts * b_s**2 * xt) / b_t**2, mean, rtol=1e-7, atol=1e-9)
    assert (b_s * math.sqrt(b2_ts) / b_t) ** 2 == pytest.approx(variance, rel=1e-6, abs=1e-12)
    library = process.posterior(COSINE, xt, x0, t, s)
    torch.testing.assert_close(library.mean, mean, rtol=1e-7, atol=1e-9)
    assert float(library.std) ** 2 == pytest.approx(variance, rel=1e-6, abs=1e-12)


@pytest.mark.equation("eq-building-step-error")
@pytest.mark.parametrize("face", ["eps", "v"])
@pytest.mark.parametrize(("t", "s"), [(1000, 980), (700, 500), (40, 20)])
def test_error_of_one_ddim_step(face, t, s, generator):
    """Perturb a network's output, take one step of the library's sampler with and without, and compare."""
    xt, output, delta = randn(3, 5, 2, generator=generator)

    def step(prediction: torch.Tensor) -> torch.Tensor:
        seen = []
        x0_hat = predictions.to_x0(face, prediction, COSINE, xt, t)
        samplers.ddim(
            lambda x, time: x0_hat if int(time[0]) == t else x, COSINE, xt, [t, s, 0], callback=lambda r: seen.append(r)
        )
        return seen[0].xs

    phi_t, phi_s = (math.atan2(float(COSINE.at(i).b), float(COSINE.at(i).a)) for i in (t, s))
    factor = -math.sin(phi_t - phi_s) / (math.cos(phi_t) if face == "eps" else 1.0)
    torch.testing.assert_close(step(output + delta) - step(output), factor * delta, rtol=1e-6, atol=1e-9)


@pytest.mark.equation("eq-building-one-point")
@pytest.mark.parametrize("t", [5, 400, 990])
def test_a_data_set_of_one_point_has_no_floor(t, generator):
    """A mixture of one ever narrower blob: its exact conditional mean of v tends to the formula, and v is it."""
    c = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    blob = data.GaussianMixture(torch.ones(1, dtype=torch.float64), c, 1e-12 * torch.eye(2, dtype=torch.float64)[None])
    eps = randn(40, 2, generator=generator)
    xt = process.add_noise(COSINE, c.expand(40, 2), t, eps)
    formula = (COSINE.at(t).a * xt - c) / COSINE.at(t).b
    best = predictions.from_x0("v", blob.posterior_mean(xt, COSINE.at(t).a, COSINE.at(t).b), COSINE, xt, t)
    torch.testing.assert_close(best, formula, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(predictions.target("v", COSINE, c.expand(40, 2), eps, t), formula, rtol=1e-7, atol=1e-7)
