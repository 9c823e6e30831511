"""The equations of chapter 15, each against a route that does not use it."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from scipy import integrate
from scipy.linalg import expm

from diffusion_book import data, denoise, losses, predictions, process, samplers, schedules
from diffusion_book.data import GaussianMixture
from diffusion_book.samplers.langevin import langevin_step

DOUBLE = torch.float64


def mixture() -> GaussianMixture:
    """Two lopsided blobs in one dimension."""
    return GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=DOUBLE),
        torch.tensor([[-1.5], [1.0]], dtype=DOUBLE),
        torch.tensor([[[0.25]], [[0.5]]], dtype=DOUBLE),
    )


def density(x: torch.Tensor, a: float, b: float) -> torch.Tensor:
    """That of the noised mixture, summed by hand, at x [N]."""
    p = torch.zeros_like(x)
    for weight, mean, variance in ((0.3, -1.5, 0.25), (0.7, 1.0, 0.5)):
        v = a**2 * variance + b**2
        p = p + weight * torch.exp(-0.5 * (x - a * mean) ** 2 / v) / math.sqrt(2 * math.pi * v)
    return p


def derivative(values: Callable[[float], torch.Tensor], at: float, h: float = 1e-4) -> torch.Tensor:
    """A central difference of order four."""
    near, far = values(at + h) - values(at - h), values(at + 2 * h) - values(at - 2 * h)
    return (8 * near - far) / (12 * h)


@pytest.mark.equation("eq-sde-langevin", by="samplers.langevin")
@pytest.mark.parametrize(("variance", "delta"), [(4.0, 0.5), (1.0, 0.1), (0.3, 0.5)])
def test_the_variance_that_langevin_steps_come_to(variance, delta):
    """The stationary law of x ← (1 − δ/v) x + √(2δ) z from its series, Σ_k (1 − δ/v)^{2k} 2δ; and by Monte Carlo."""
    series = sum((1 - delta / variance) ** (2 * k) * 2 * delta for k in range(5000))
    assert variance / (1 - delta / (2 * variance)) == pytest.approx(series, rel=1e-9)
    one = torch.ones(1, dtype=DOUBLE)
    b = 0.1  # of which δ = 2 (snr b)²
    blob = GaussianMixture(one, 0 * one[:, None], (variance - b**2) * one[:, None, None])
    snr = math.sqrt(delta / 2) / b
    generator, n = torch.Generator().manual_seed(0), 20_000
    x = samplers.start_noise((n, 1), generator, DOUBLE)
    for _ in range(60):
        x0_hat = blob.posterior_mean(x, 1.0, b)
        x = langevin_step(x, x0_hat, 1.0, b, snr, generator)
    left = (1 - delta / variance) ** 120  # of how wrong the start was
    assert abs(x.var().item() / series - 1) < 4.5 * math.sqrt(2 / n) + left * abs(1 / series - 1)


@pytest.mark.equation("eq-sde-hyvarinen")
@pytest.mark.parametrize("k", [0.5, 1.3])
def test_score_matching_without_the_score(k):
    """Both sides by quadrature for the score s = −k x + sin x, which is not the mixture's, up to one constant."""
    x = torch.linspace(-12, 12, 200_001, dtype=DOUBLE)
    p = density(x, 1.0, 0.0)
    true = derivative(lambda h: density(x + h, 1.0, 0.0).log(), 0.0)

    def mean(values: torch.Tensor) -> float:
        return torch.trapezoid(p * values, x).item()

    s, slope = -k * x + x.sin(), -k + x.cos()
    constant = 0.5 * mean(true**2)
    assert 0.5 * mean((s - true) ** 2) == pytest.approx(mean(slope + 0.5 * s**2) + constant, abs=1e-7)


@pytest.mark.equation("eq-sde-dsm", by="losses.simple_loss")
@pytest.mark.parametrize(("a", "b"), [(1.0, 0.7), (0.6, 0.8)])
def test_denoising_score_matching_differs_by_a_constant(a, b):
    """E[−ε/b | x_t] by integrating over ε at a fixed x_t, against a difference quotient of log q; then both losses."""
    eps = torch.linspace(-9, 9, 20_001, dtype=DOUBLE)
    bell = torch.exp(-0.5 * eps**2)
    for xt in (-1.2, 0.1, 2.0):
        joint = bell * density((xt - b * eps) / a, 1.0, 0.0)  # of ε and x_t, up to a factor
        answer = torch.trapezoid(joint * -eps / b, eps) / torch.trapezoid(joint, eps)
        slope = derivative(lambda h: density(torch.tensor([xt + h], dtype=DOUBLE), a, b).log(), 0.0)  # noqa: B023
        assert answer.item() == pytest.approx(slope.item(), abs=1e-7)
    generator, n = torch.Generator().manual_seed(1), 400_000
    x0 = mixture().sample(n, generator)
    noise = torch.randn(n, 1, generator=generator, dtype=DOUBLE)
    x = a * x0 + b * noise
    true = derivative(lambda h: density(x[:, 0] + h, a, b).log(), 0.0)[:, None]
    gaps = []
    for network in (lambda x: -x, lambda x: -0.3 * x + x.cos()):
        each = (network(x) + noise / b) ** 2 - (network(x) - true) ** 2
        gaps.append((each.mean().item(), each.std().item() / math.sqrt(n)))
    (one, first), (other, second) = gaps
    assert abs(one - other) < 4.5 * math.hypot(first, second)
    # The library's loss of a network that predicts the score is the left side.
    schedule = schedules.EDM()
    t = torch.full((n,), b, dtype=DOUBLE)
    by_library = losses.simple_loss(lambda x, t: -x, schedule, x0, t, noise, prediction="score").mean()
    # EDM hands the network x_t as it is for the score.
    by_hand = ((-(x0 + b * noise) + noise / b) ** 2).mean()
    assert by_library.item() == pytest.approx(by_hand.item(), rel=1e-9)


@pytest.mark.equation("eq-sde-coefficients", by="process.drift_and_diffusion")
@pytest.mark.parametrize(
    "schedule", [schedules.VE(0.1, 5.0), schedules.VP(), schedules.SubVP(), schedules.Flow(), schedules.Cosine()]
)
def test_a_schedule_is_a_linear_sde(schedule):
    """Mean and variance of dx = f x dt + g dw, solved by scipy from t_1 on, are a and b² at t_2."""
    start, end = 0.05 * schedule.T, 0.9 * schedule.T

    def slope(t: float, state: list[float]) -> list[float]:
        f, g2 = (float(value) for value in process.drift_and_diffusion(schedule, t))
        return [f * state[0], 2 * f * state[1] + g2]

    _, a, b = (float(value) for value in schedule.at(start))
    solved = integrate.solve_ivp(slope, (start, end), [a, b**2], rtol=1e-10, atol=1e-12).y[:, -1]
    _, a, b = (float(value) for value in schedule.at(end))
    assert solved[0] == pytest.approx(a, rel=1e-6)
    assert solved[1] == pytest.approx(b**2, rel=1e-6)
    if isinstance(schedule, schedules.VP):
        assert float(process.drift_and_diffusion(schedule, end)[0]) == pytest.approx(-0.5 * (0.1 + 19.9 * 0.9))
    # What the page works out by hand: f = −½ and g = 1 for a unit of time.
    unit = schedules.VP(1.0, 1.0)
    assert [float(v) for v in process.drift_and_diffusion(unit, 0.3)] == pytest.approx([-0.5, 1.0])
    assert 2 * float(unit.at(1.0).a) == pytest.approx(1.213, abs=5e-4)
    assert float(unit.at(1.0).b) ** 2 == pytest.approx(0.632, abs=5e-4)


BETA = 3.0


def ou(t: float) -> tuple[float, float]:
    """a and b of dx = −½ β x dt + √β dw."""
    a = math.exp(-0.5 * BETA * t)
    return a, math.sqrt(1 - a * a)


@pytest.mark.equation("eq-sde-fokker-planck")
@pytest.mark.parametrize("t", [0.1, 0.4])
def test_the_density_obeys_fokker_planck(t):
    """∂p/∂t by differences in t, beside the right side by differences in x; and a generator matrix that knows neither.

    The matrix is of a walk on a lattice that jumps left and right at rates that have the drift and the variance.
    """
    x = torch.linspace(-4, 4, 81, dtype=DOUBLE)
    in_time = derivative(lambda s: density(x, *ou(s)), t)

    def flux(h: float) -> torch.Tensor:
        return -0.5 * BETA * (x + h) * density(x + h, *ou(t))

    def bend(h: float) -> torch.Tensor:
        return derivative(lambda k: density(x + h + k, *ou(t)), 0.0, 1e-3)

    right = -derivative(flux, 0.0, 1e-3) + 0.5 * BETA * derivative(bend, 0.0, 1e-3)
    torch.testing.assert_close(in_time, right, rtol=0, atol=1e-7)

    place = torch.linspace(-5, 5, 201, dtype=DOUBLE)
    h = (place[1] - place[0]).item()
    drift = -0.5 * BETA * place
    up, down = 0.5 * BETA / h**2 + drift / (2 * h), 0.5 * BETA / h**2 - drift / (2 * h)
    rates = torch.diag(-(up + down)) + torch.diag(up[:-1], -1) + torch.diag(down[1:], 1)
    walked = torch.from_numpy(expm(t * rates.numpy())) @ density(place, 1.0, 0.0)
    # The lattice is right to order h² = 0.0025, times fourth derivatives of a few.
    torch.testing.assert_close(walked, density(place, *ou(t)), rtol=0, atol=5e-3)


@pytest.mark.equation("eq-sde-continuity", by="predictions.from_x0")
@pytest.mark.parametrize("t", [0.1, 0.4])
def test_the_crowd_moves_as_if_nobody_were_shaken(t):
    """∂p/∂t = −∂(u p)/∂x with u = f x − ½ g² s: time differences on the left, and s by differences of log p."""
    x = torch.linspace(-4, 4, 81, dtype=DOUBLE)

    def traffic(h: float) -> torch.Tensor:
        s = derivative(lambda k: density(x + h + k, *ou(t)).log(), 0.0, 1e-3)
        return (-0.5 * BETA * (x + h) - 0.5 * BETA * s) * density(x + h, *ou(t))

    in_time = derivative(lambda s: density(x, *ou(s)), t)
    torch.testing.assert_close(in_time, -derivative(traffic, 0.0, 1e-3), rtol=0, atol=1e-7)


@pytest.mark.equation("eq-sde-family", by="samplers.sde")
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0, 2.0])
def test_every_degree_of_noise_has_the_right_density(eta):
    """The backward generator on a lattice takes p_t to p_s: rates with the family's drift and variance, no sampling."""
    t, steps, h = 0.4, 40, 0.025
    place = torch.arange(-200, 201, dtype=DOUBLE) * h
    p = density(place, *ou(t))
    for k in range(steps):  # from t down to t/2, the drift being that of the middle of each step
        middle = t - (k + 0.5) * t / 2 / steps
        s = derivative(lambda e: density(place + e, *ou(middle)).log(), 0.0, 1e-3)  # noqa: B023
        drift = -(-0.5 * BETA * place - 0.5 * (1 + eta**2) * BETA * s)
        spread = eta**2 * BETA / (2 * h**2)
        up, down = spread + (drift / h).clamp(min=0), spread + (-drift / h).clamp(min=0)
        rates = torch.diag(-(up + down)) + torch.diag(up[:-1], -1) + torch.diag(down[1:], 1)
        p = torch.linalg.solve(torch.eye(len(p), dtype=DOUBLE) - t / 2 / steps * rates, p)
    # Jumps that go with the drift spread by |drift| h/2 more, which shows where nothing else spreads. On the way the
    # density changes by 0.07.
    assert (p - density(place, *ou(t / 2))).abs().max().item() < (0.025 if eta == 0 else 0.004)
    # The library's loop takes these very steps.
    schedule = schedules.VP(BETA, BETA)
    x = torch.tensor([[-1.0], [0.2], [2.0]], dtype=DOUBLE)
    seen: list[samplers.Step] = []
    draws = torch.Generator().manual_seed(3)
    samplers.sde(
        denoise.exact(mixture(), schedule),
        schedule,
        x,
        [0.5, 0.49, 0.0],
        eta=eta,
        generator=draws,
        callback=seen.append,
    )
    z = torch.randn(3, 1, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    score = derivative(lambda e: density(x[:, 0] + e, *ou(0.5)).log(), 0.0, 1e-3)[:, None]
    dt = -0.01
    step = (-0.5 * BETA * x - 0.5 * (1 + eta**2) * BETA * score) * dt + eta * math.sqrt(BETA * -dt) * z
    torch.testing.assert_close(seen[0].xs, x + step, rtol=0, atol=1e-8)


@pytest.mark.equation("eq-sde-forget", by="samplers.sde")
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
def test_how_fast_a_degree_of_noise_forgets(eta):
    """Correlation of start and end of the library's walk for data N(0, 1), where every marginal is N(0, 1)."""
    schedule, n = schedules.VP(1.0, 1.0), 40_000
    generator = torch.Generator().manual_seed(0)
    one = torch.ones(1, dtype=DOUBLE)
    denoiser = denoise.exact(GaussianMixture(one, 0 * one[:, None], one[:, None, None]), schedule)
    x = torch.randn(n, 1, generator=generator, dtype=DOUBLE)
    times = torch.linspace(1.0, 0.3, 141, dtype=DOUBLE).tolist()
    seen: list[samplers.Step] = []
    samplers.sde(denoiser, schedule, x, [*times, 0.0], eta=eta, generator=generator, callback=seen.append)
    together = torch.corrcoef(torch.stack([x[:, 0], seen[-2].xs[:, 0]]))[0, 1].item()
    assert together == pytest.approx(math.exp(-0.5 * eta**2 * 0.7), abs=4.5 / math.sqrt(n) + 2e-3)
    # Forwards, the same pair of times has the correlation of a Gaussian process with a_{t|s}.
    a = process.step_coefficients(schedule, 1.0, 0.3)[0].item()
    assert (together == pytest.approx(a, abs=0.025)) is (eta == 1.0)


@pytest.mark.equation("eq-sde-likelihood", by="samplers.log_likelihood")
@pytest.mark.parametrize("schedule", [schedules.Flow(), schedules.VP(), schedules.SubVP(), schedules.VE(0.1, 20.0)])
def test_the_likelihood_of_the_ode_is_the_mixtures(schedule):
    """The mixture's own density; the ends of VP, sub-VP and VE are Gaussian only nearly, by a_T times the data."""
    ring = data.ring_of_gaussians(count=3, radius=1.0, std=0.4)
    x = ring.sample(8, torch.Generator().manual_seed(0))
    found = samplers.log_likelihood(denoise.exact(ring, schedule), schedule, x, rtol=1e-8, atol=1e-8, sigma_min=1e-4)
    close = 1e-4 if schedule.ends_in_noise else 0.05
    torch.testing.assert_close(found, ring.log_prob(x), rtol=0, atol=close)


@pytest.mark.equation("eq-sde-likelihood")
def test_the_density_along_a_path_falls_by_the_divergence():
    """d log p_t(x_t)/dt by following one path of the exact flow with scipy, and −∂u/∂x by differences."""

    def velocity(t: float, x: list[float]) -> list[float]:
        at = torch.tensor(x, dtype=DOUBLE)
        s = derivative(lambda e: density(at + e, *ou(t)).log(), 0.0, 1e-3)
        return (-0.5 * BETA * (at + s)).tolist()

    t, h = 0.3, 1e-3
    for x in (-1.0, 0.3, 1.4):
        ends = [integrate.solve_ivp(velocity, (t, t + k * h), [x], rtol=1e-11, atol=1e-12).y[0, -1] for k in (-1, 1)]
        logs = [density(torch.tensor([e], dtype=DOUBLE), *ou(t + k * h)).log().item() for e, k in zip(ends, (-1, 1))]
        divergence = (velocity(t, [x + 1e-3])[0] - velocity(t, [x - 1e-3])[0]) / 2e-3
        assert (logs[1] - logs[0]) / (2 * h) == pytest.approx(-divergence, abs=1e-4)
    # The page's case by hand.
    assert -0.5 * math.log(20 * math.pi) - 0.5 == pytest.approx(-2.570, abs=5e-4)
    assert -2.570 + 0.5 * math.log(10) == pytest.approx(-0.5 * math.log(2 * math.pi) - 0.5, abs=1e-3)


@pytest.mark.equation("eq-sde-hutchinson", by="samplers.log_likelihood")
def test_signs_estimate_a_trace_without_bias():
    """The mean over all signs of three dimensions, and that no sign matters for a diagonal matrix."""
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=3)), dtype=DOUBLE)
    each = ((signs @ matrix) * signs).sum(1)
    assert each.mean().item() == pytest.approx(matrix.diagonal().sum().item(), rel=1e-12)
    assert each.std().item() > 0.1
    schedule = schedules.Flow()
    one = torch.ones(1, dtype=DOUBLE)
    blob = GaussianMixture(one, torch.zeros(1, 2, dtype=DOUBLE), 0.3 * torch.eye(2, dtype=DOUBLE)[None])
    x = blob.sample(5, torch.Generator().manual_seed(1))
    exact, estimated = (
        samplers.log_likelihood(
            denoise.exact(blob, schedule), schedule, x, divergence=how, generator=torch.Generator().manual_seed(2)
        )
        for how in ("exact", "hutchinson")
    )
    torch.testing.assert_close(exact, estimated, rtol=0, atol=1e-6)  # its Jacobian is a multiple of I


@pytest.mark.equation("eq-sde-two-models", by="samplers.sde")
@pytest.mark.parametrize("kappa", [0.8, 0.9, 1.1])
def test_one_wrong_score_is_two_models(kappa):
    """Both variances by integrating their linear equations backwards with scipy, and by the library's walk."""
    schedule, B = schedules.VP(), 10.05

    def slope(eta: float) -> Callable[[float, list[float]], list[float]]:
        def of(tau: float, variance: list[float]) -> list[float]:
            beta = 0.1 + 19.9 * (1 - tau)
            pull = 0.5 * beta - 0.5 * (1 + eta**2) * beta * kappa
            return [2 * pull * variance[0] + eta**2 * beta]

        return of

    printed = {
        0.0: math.exp((1 - kappa) * B),
        1.0: 1 / (2 * kappa - 1) + (1 - 1 / (2 * kappa - 1)) * math.exp(-(2 * kappa - 1) * B),
    }
    for eta, expected in printed.items():
        solved = integrate.solve_ivp(slope(eta), (0, 1), [1.0], rtol=1e-10, atol=1e-12).y[0, -1]
        assert expected == pytest.approx(solved, rel=1e-6)

    def short(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        _, a, b = schedule.at(t).like(xt)
        return (xt - b**2 * kappa * xt) / a

    generator, n = torch.Generator().manual_seed(0), 20_000
    times = (torch.linspace(1, 0, 601, dtype=DOUBLE) ** 2).tolist()
    for eta, expected in printed.items():
        x = torch.randn(n, 1, generator=generator, dtype=DOUBLE)
        found = samplers.sde(short, schedule, x, times, eta=eta, generator=generator).var().item()
        assert found == pytest.approx(expected, rel=0.08)  # Euler's steps, beside 4.5 √(2/n) = 0.045


@pytest.mark.equation("eq-sde-velocity", by="predictions.from_x0")
@pytest.mark.parametrize(
    "schedule", [schedules.Flow(), schedules.VP(), schedules.SubVP(), schedules.VE(0.1, 5.0), schedules.Cosine()]
)
@pytest.mark.parametrize("part", [0.2, 0.6])
def test_the_mean_velocity_is_that_of_the_ode(schedule, part):
    """E[ȧ x0 + ḃ ε | x_t] by integrating over x0 at a fixed x_t; f x − ½ g² s with s by differences; and the table."""
    t = part * schedule.T
    _, a, b = (float(value) for value in schedule.at(t))
    a_dot, b_dot = (float(value) for value in schedule.rates(t))
    f, g2 = (float(value) for value in process.drift_and_diffusion(schedule, t))
    x0 = torch.linspace(-8, 8, 200_001, dtype=DOUBLE)
    for xt in (-1.0, 0.4, 1.8):
        eps = (xt - a * x0) / b
        joint = density(x0, 1.0, 0.0) * torch.exp(-0.5 * eps**2)
        mean = (torch.trapezoid(joint * (a_dot * x0 + b_dot * eps), x0) / torch.trapezoid(joint, x0)).item()
        s = derivative(lambda h: density(torch.tensor([xt + h], dtype=DOUBLE), a, b).log(), 0.0).item()  # noqa: B023
        scale = abs(mean) + abs(f * xt) + 1
        assert mean == pytest.approx(f * xt - 0.5 * g2 * s, abs=1e-6 * scale)
        x0_hat = mixture().posterior_mean(torch.tensor([[xt]], dtype=DOUBLE), a, b)
        u = predictions.from_x0("u", x0_hat, schedule, torch.tensor([[xt]], dtype=DOUBLE), t)
        assert u.item() == pytest.approx(mean, abs=1e-6 * scale)
