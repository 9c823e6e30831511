"""Chapter 4: every derived equation of the loss, by another route."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from diffusion_book import data, losses, predictions, process, schedules

f64 = {"dtype": torch.float64}
SCHEDULE = schedules.linear(50, 1e-3, 0.2)
RING = data.ring_of_gaussians()


def noisy(t: int, x0: Tensor, eps: Tensor) -> Tensor:
    _, a, b = SCHEDULE.at(t)
    return a * x0 + b * eps


def step_back(t: int, xt: Tensor, x0: Tensor) -> MultivariateNormal:
    """q(x_{t−1} | x_t, x_0) from the joint covariance of the chain: the rule for conditional Gaussians."""
    (_, a_s, b_s), (_, a_t, b_t) = SCHEDULE.at(t - 1), SCHEDULE.at(t)
    slope = (1 - SCHEDULE.beta[t]).sqrt() * b_s**2 / b_t**2  # Cov(x_s, x_t) / Var x_t
    mean = a_s * x0 + slope * (xt - a_t * x0)
    var = b_s**2 - slope * (1 - SCHEDULE.beta[t]).sqrt() * b_s**2
    return MultivariateNormal(mean, var * torch.eye(len(x0), **f64))


# From ELBO to L_simple -------------------------------------------------------------------------------------------


@pytest.mark.equation("eq-loss-prior", by="process.prior_kl")
def test_the_last_term_is_the_divergence_from_the_start(generator):
    x0 = torch.randn(3, 5, generator=generator, **f64)
    _, a, b = SCHEDULE.at(50)
    formula = 0.5 * (a**2 * x0.square().sum(1) + 5 * (b**2 - 1 - (b**2).log()))
    start = Normal(torch.zeros(5, **f64), torch.ones(5, **f64))
    exact = kl_divergence(Normal(a * x0, b.expand(3, 5)), start).sum(1)
    assert torch.allclose(formula, exact, rtol=1e-10)
    assert torch.allclose(process.prior_kl(SCHEDULE, x0), exact, rtol=1e-6)


@pytest.mark.equation("eq-loss-eps-weight", by="process.posterior_kl")
@pytest.mark.parametrize("t", [2, 3, 20, 50])
def test_the_weight_on_the_noise_is_what_a_wrong_noise_costs(t, generator):
    x0, eps, miss = torch.randn(3, 4, generator=generator, **f64)
    xt = noisy(t, x0, eps)
    x0_hat = (xt - SCHEDULE.at(t).b * (eps + miss)) / SCHEDULE.at(t).a
    exact = kl_divergence(step_back(t, xt, x0), step_back(t, xt, x0_hat))
    lam = SCHEDULE.at(torch.tensor([t - 1, t])).log_snr
    ratio = (SCHEDULE.alpha_bar[t - 1] / (1 - SCHEDULE.alpha_bar[t - 1])) / (
        SCHEDULE.alpha_bar[t] / (1 - SCHEDULE.alpha_bar[t])
    )
    assert (0.5 * torch.expm1(lam[0] - lam[1]) * miss.square().sum()).item() == pytest.approx(exact.item(), rel=1e-8)
    assert (0.5 * (ratio - 1) * miss.square().sum()).item() == pytest.approx(exact.item(), rel=1e-8)


@pytest.mark.equation("eq-loss-ho-weight")
@pytest.mark.parametrize("t", [2, 20, 50])
def test_equation_12_charges_the_distance_of_the_two_means(t, generator):
    """For any variance, the divergence of two Gaussians of that variance around the posterior's two means."""
    x0, eps, miss = torch.randn(3, 4, generator=generator, **f64)
    xt = noisy(t, x0, eps)
    x0_hat = (xt - SCHEDULE.at(t).b * (eps + miss)) / SCHEDULE.at(t).a
    beta, alpha_bar = SCHEDULE.beta[t], SCHEDULE.alpha_bar[t]
    posterior = step_back(t, xt, x0).variance[0]
    for var in (posterior, beta, torch.tensor(0.3, **f64)):
        one, other = (Normal(step_back(t, xt, x).mean, var.sqrt()) for x in (x0, x0_hat))
        weight = beta**2 / (2 * var * (1 - beta) * (1 - alpha_bar))
        assert (weight * miss.square().sum()).item() == pytest.approx(kl_divergence(one, other).sum().item(), rel=1e-8)


@pytest.mark.equation("eq-loss-last-step", by="losses.reconstruction")
def test_the_first_time_is_one_more_line_of_the_table(generator):
    x0, eps, miss = torch.randn(3, 1, 4, generator=generator, **f64)
    beta = SCHEDULE.beta[1]
    xt = noisy(1, x0, eps)
    x0_hat = (xt - SCHEDULE.at(1).b * (eps + miss)) / SCHEDULE.at(1).a
    exact = -Normal(x0_hat, beta.sqrt()).log_prob(x0).sum()
    formula = miss.square().sum() / (2 * (1 - beta)) + 2 * (2 * math.pi * beta).log()
    assert formula.item() == pytest.approx(exact.item(), rel=1e-9)
    assert losses.reconstruction(x0, x0_hat, beta.sqrt(), None).item() == pytest.approx(exact.item(), rel=1e-6)


# Loss weighting strategies ---------------------------------------------------------------------------------------


def two_point_error(snr: Tensor) -> Tensor:
    """E(x0 − E[x0 | x_t])² for x0 = ±1, by an integral on a grid."""
    eps = torch.linspace(-12, 12, 4001, **f64)
    phi = Normal(0.0, 1.0).log_prob(eps).exp()
    miss = 1 - torch.tanh(snr[:, None] + snr.sqrt()[:, None] * eps)
    return torch.trapezoid(phi * miss**2, eps)


@pytest.mark.equation("eq-loss-area", by="losses.vdm")
def test_more_steps_between_fixed_ends_come_down_to_the_area():
    """The bound's steps by `posterior_kl`'s own weight, for data that is not Gaussian; and both forms of the area."""
    ends = math.log(20), math.log(0.1)
    fine = torch.linspace(*ends, 4001, **f64)
    error = two_point_error(fine.exp())
    in_lambda = 0.5 * -torch.trapezoid(fine.exp() * error, fine)
    in_snr = 0.5 * -torch.trapezoid(error, fine.exp())
    assert in_lambda.item() == pytest.approx(in_snr.item(), rel=1e-5)
    excess = []
    for n in (50, 100, 200):
        log_snr = torch.linspace(*ends, n + 1, **f64)
        alpha_bar = torch.cat([torch.ones(1, **f64), torch.sigmoid(log_snr)])
        made = schedules.Discrete(1 - alpha_bar[1:] / alpha_bar[:-1])
        one, none = torch.ones(1, 1, **f64), torch.zeros(1, 1, **f64)
        weight = torch.cat([process.posterior_kl(made, one, none, t) for t in range(2, n + 2)])  # of an error of one
        excess.append((weight @ two_point_error(log_snr[1:].exp()) - in_snr).item())
    assert excess[0] > excess[1] > excess[2] > 0
    assert excess[0] / excess[1] == pytest.approx(2, abs=0.1)  # first order: half the steps, twice the excess
    # and the weight of the library, over even times, is the same area
    cosine = schedules.Cosine()
    t = torch.linspace(cosine.time_at(ends[0]), cosine.time_at(ends[1]), 20_001, **f64)
    level = cosine.at(t).log_snr
    charge = losses.vdm()(cosine, t) * level.exp() * two_point_error_between(level, fine, error)
    assert torch.trapezoid(charge, t).item() == pytest.approx(in_snr.item(), rel=1e-4)


def two_point_error_between(log_snr: Tensor, known_at: Tensor, known: Tensor) -> Tensor:
    """The error at other log-SNRs, by straight lines between those at a falling grid."""
    right = torch.searchsorted(-known_at, -log_snr).clamp(1, len(known_at) - 1)
    share = (log_snr - known_at[right - 1]) / (known_at[right] - known_at[right - 1])
    return (1 - share) * known[right - 1] + share * known[right]


@pytest.mark.equation("eq-loss-gaussian-area")
def test_the_area_of_the_normal_is_half_of_log_five():
    snr = torch.linspace(1, 9, 100_001, **f64)
    assert 0.5 * torch.trapezoid(1 / (1 + snr), snr).item() == pytest.approx(0.5 * math.log(5), rel=1e-9)
    # and that is how much more of x0 the cleaner end tells, in nats: ½ log(1 + SNR) is what each end tells
    told = [0.5 * math.log(1 + s) for s in (9, 1)]
    assert told[0] - told[1] == pytest.approx(0.5 * math.log(5))


@pytest.mark.equation("eq-loss-effective")
@pytest.mark.parametrize("schedule", [schedules.Cosine(), schedules.VP(), schedules.Flow()], ids=lambda s: repr(s))
def test_even_times_with_a_weight_are_an_integral_over_the_log_snr(schedule):
    """Both sides by quadrature, on grids even in t and even in λ; ω and the error are arbitrary."""
    ends = schedule.time_at(torch.tensor([6.0, -6.0], **f64))
    t = torch.linspace(float(ends[0]), float(ends[1]), 40_001, **f64)
    error_in_time = torch.sigmoid(schedule.at(t).log_snr)
    left = torch.trapezoid((1 + t**2) * error_in_time, t) / schedule.T
    lam = torch.linspace(6, -6, 40_001, **f64)
    t_of = schedule.time_at(lam)
    gap = 1e-4 * t_of.clamp(max=0.5)
    rate = (schedule.at(t_of + gap).log_snr - schedule.at(t_of - gap).log_snr) / (2 * gap)
    w = 2 * (1 + t_of**2) / (schedule.T * rate.abs())
    right = 0.5 * -torch.trapezoid(w * torch.sigmoid(lam), lam)
    assert left.item() == pytest.approx(right.item(), rel=1e-5)


@pytest.mark.equation("eq-loss-faces", by="losses.weight_of")
@pytest.mark.parametrize("t", [1, 20, 50])
def test_one_error_on_three_faces(t, generator):
    """The derivative of ε and of v by x0 at a fixed x_t, by autograd."""
    xt, x0 = torch.randn(2, 1, 1, generator=generator, **f64)
    x0.requires_grad_()
    snr = SCHEDULE.at(t).log_snr.exp()
    d_eps, d_v = (
        torch.autograd.grad(predictions.from_x0(face, x0, SCHEDULE, xt, t).sum(), x0)[0].item() for face in ("eps", "v")
    )
    assert d_eps**2 == pytest.approx(snr.item(), rel=1e-9)
    assert d_eps**2 == pytest.approx((snr / (snr + 1)).item() * d_v**2, rel=1e-9)

    def weight(schedule, t):
        return torch.full((len(t),), 3.0, **f64)

    on = {face: losses.weight_of(weight, face, SCHEDULE, torch.tensor([t])).item() for face in ("eps", "x0", "v")}
    assert on["x0"] == pytest.approx(3 * d_eps**2, rel=1e-9)
    assert on["v"] == pytest.approx(3 * (d_eps / d_v) ** 2, rel=1e-9)


def weight_by_counting(schedule, face: str, edges: Tensor) -> Tensor:
    """The effective weight of a plain loss in each bin of λ: how many even times fall into it, times ω there."""
    t = schedule.T * (torch.arange(2_000_000, **f64) + 0.5) / 2_000_000
    lam = schedule.at(t).log_snr
    a, b = schedule.at(t).a, schedule.at(t).b
    factor = {"eps": torch.ones_like(a), "v": (a + b**2 / a) ** 2, "u": (1 + b / a) ** 2}[face]  # δface / δε, squared
    inside = (lam > edges[0]) & (lam < edges[-1])
    bins = torch.bucketize(lam[inside], edges) - 1
    total = torch.zeros(len(edges) - 1, **f64).index_add_(0, bins, factor[inside])
    return 2 * total / len(t) / edges.diff()


EDGES = torch.linspace(-5, 5, 101, **f64)
MIDDLE = (EDGES[1:] + EDGES[:-1]) / 2


@pytest.mark.equation("eq-loss-cosine")
def test_the_effective_weights_on_the_cosine_schedule():
    on_eps, on_v = (weight_by_counting(schedules.Cosine(), face, EDGES) for face in ("eps", "v"))
    assert torch.allclose(on_eps, 1 / (math.pi * torch.cosh(MIDDLE / 2)), rtol=2e-3)
    assert torch.allclose(on_v, 2 / math.pi * torch.exp(-MIDDLE / 2), rtol=2e-3)


@pytest.mark.equation("eq-loss-flow")
def test_the_effective_weight_of_the_straight_line():
    """At λ the straight line is at t with (1 − t)/t = e^{λ/2}, so t/(1 − t) and e^{−λ/2} are both what is counted."""
    counted = weight_by_counting(schedules.Flow(), "u", EDGES)
    t = 1 / (1 + torch.exp(MIDDLE / 2))
    assert torch.allclose(counted, t / (1 - t), rtol=2e-3)
    assert torch.allclose(counted, torch.exp(-MIDDLE / 2), rtol=2e-3)


@pytest.mark.equation("eq-loss-draws")
def test_no_other_way_of_drawing_times_scatters_less(generator):
    weight = torch.tensor([3.0, 0.5, 1.0, 0.1], **f64)
    second_moment = torch.tensor([0.2, 4.0, 1.0, 9.0], **f64)

    def scatter(p: Tensor) -> float:
        return float((weight**2 * second_moment / p).sum())

    best = weight * second_moment.sqrt()
    best = best / best.sum()
    least = scatter(best)
    for _ in range(500):
        other = best * torch.exp(0.1 * torch.randn(4, generator=generator, **f64))
        assert scatter(other / other.sum()) >= least


# Targets and EDM preconditioning ---------------------------------------------------------------------------------


def edm_sample(sigma: float, sigma_data: float, generator: torch.Generator, n: int = 400_000):
    x0 = sigma_data * torch.randn(n, generator=generator, **f64)
    eps = torch.randn(n, generator=generator, **f64)
    return x0, eps, x0 + sigma * eps


@pytest.mark.equation("eq-loss-c-out", by="predictions.coefficients")
def test_a_target_of_size_one_for_any_share_that_is_passed_by(generator):
    sigma, sigma_data = 1.7, 0.6
    x0, _, x = edm_sample(sigma, sigma_data, generator)
    for skip in (0.0, 0.3, 1.0):
        out = math.sqrt((1 - skip) ** 2 * sigma_data**2 + skip**2 * sigma**2)
        target = (x0 - skip * x) / out
        assert target.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / len(x0)))


@pytest.mark.equation("eq-loss-edm", by="predictions.coefficients")
@pytest.mark.parametrize(("sigma", "sigma_data"), [(0.02, 0.5), (0.5, 0.5), (3.0, 1.4)])
def test_the_three_numbers_are_what_a_search_finds(sigma, sigma_data, generator):
    """c_skip by trying all, c_out as what is left, both on drawn data; c_in from the drawn input."""
    x0, _, x = edm_sample(sigma, sigma_data, generator)
    total = sigma**2 + sigma_data**2
    step = 0.001
    tried = torch.arange(0, 1 + step, step, **f64)
    # Var(x0 − c x) for every c at once, from three moments of the sample
    left = x0.square().mean() - 2 * tried * (x0 * x).mean() + tried**2 * x.square().mean()
    slack = step + 5 / math.sqrt(len(x0))
    assert tried[left.argmin()].item() == pytest.approx(sigma_data**2 / total, abs=slack)
    c_out = sigma * sigma_data / math.sqrt(total)
    assert left.min().sqrt().item() == pytest.approx(c_out, rel=5 / math.sqrt(len(x0)))
    assert (x / math.sqrt(total)).std().item() == pytest.approx(1, abs=5 / math.sqrt(len(x0)))
    assert c_out < min(sigma, sigma_data)


@pytest.mark.equation("eq-loss-edm-weight", by="losses.edm")
@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_the_weight_of_edm_is_the_plain_error_of_its_network(sigma, generator):
    sigma_data = 0.5
    schedule = schedules.EDM(sigma_data=sigma_data)
    x0, eps, F = torch.randn(3, 7, 1, generator=generator, **f64)
    xt, t = x0 + sigma * eps, torch.full((7,), sigma, **f64)
    D = predictions.to_x0("F", F, schedule, xt, t)
    weighted = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2 * (D - x0) ** 2
    target = (sigma * x0 / sigma_data - sigma_data * eps) / math.hypot(sigma, sigma_data)
    assert torch.allclose(weighted, (F - target) ** 2, rtol=1e-8)
    on_x0 = losses.weight_of(losses.edm(), "x0", schedule, t)
    assert torch.allclose(on_x0[:, None] * (D - x0) ** 2, weighted, rtol=1e-8)


@pytest.mark.equation("eq-loss-v", by="predictions.target")
@pytest.mark.parametrize("sigma", [0.1, 1.0, 8.0])
def test_for_data_of_variance_one_the_target_of_edm_is_minus_v(sigma, generator):
    """v as the direction of the turn, dx_t/dφ by a finite difference, and F from its own three numbers."""
    x0, eps = torch.randn(2, 6, 1, generator=generator, **f64)
    phi, gap = math.atan(sigma), 1e-6

    def turned(angle: float) -> Tensor:
        return math.cos(angle) * x0 + math.sin(angle) * eps

    v = (turned(phi + gap) - turned(phi - gap)) / (2 * gap)
    skip, out = 1 / (sigma**2 + 1), sigma / math.sqrt(sigma**2 + 1)
    F = (x0 - skip * (x0 + sigma * eps)) / out
    assert torch.allclose(F, -v, atol=1e-8)
    t = schedules.Cosine().time_at(-2 * math.log(sigma))
    assert torch.allclose(predictions.target("F", schedules.Cosine(), x0, eps, t), -v, atol=1e-8)


# Numerical analysis of the loss ----------------------------------------------------------------------------------


@pytest.mark.equation("eq-loss-gaussian-floor")
@pytest.mark.parametrize(("t", "s"), [(1, 1.0), (20, 0.15), (50, 2.0)])
def test_the_floor_of_gaussian_data_is_what_least_squares_leaves(t, s, generator):
    n = 200_000
    x0 = s * torch.randn(n, generator=generator, **f64)
    eps = torch.randn(n, generator=generator, **f64)
    xt = noisy(t, x0, eps)
    slope = (eps * xt).mean() / xt.square().mean()
    squares = (eps - slope * xt).square()
    _, a, b = SCHEDULE.at(t)
    floor = (a**2 * s**2 / (a**2 * s**2 + b**2)).item()
    assert squares.mean().item() == pytest.approx(floor, abs=4 * squares.std().item() / n**0.5)


@pytest.mark.equation("eq-loss-floor")
@pytest.mark.parametrize("t", [2, 12, 40])
def test_a_loss_is_floor_and_regret(t, generator):
    n = 100_000
    x0 = RING.sample(n, generator)
    eps = torch.randn(n, 2, generator=generator, **f64)
    xt = noisy(t, x0, eps)
    _, a, b = SCHEDULE.at(t)
    best = (xt - a * RING.posterior_mean(xt, a, b)) / b
    guess = torch.tanh(xt) - 0.2 * xt.flip(1)  # any function of x_t
    mixed = ((eps - best) * (best - guess)).sum(1)
    assert abs(mixed.mean().item()) < 4 * mixed.std().item() / n**0.5
    surplus = ((eps - guess).square() - (eps - best).square() - (best - guess).square()).sum(1)
    assert torch.allclose(surplus, 2 * mixed, atol=1e-9)


@pytest.mark.equation("eq-loss-between")
def test_the_floor_of_the_ring_lies_between_two_gaussians(generator):
    n = 100_000
    x0 = RING.sample(n, generator)
    eps = torch.randn(n, 2, generator=generator, **f64)
    strictly = 0
    for t in (1, 5, 10, 15, 20, 30, 50):
        _, a, b = SCHEDULE.at(t)
        xt = a * x0 + b * eps
        best = (xt - a * RING.posterior_mean(xt, a, b)) / b
        squares = (eps - best).square().mean(1)
        error = 4 * squares.std() / n**0.5
        # told the blob: the formula for conditional Gaussians; told nothing: the best straight line, on the sample
        told = (a**2 * 0.15**2 / (a**2 * 0.15**2 + b**2)).item()
        slope = (eps * xt).mean() / xt.square().mean()
        linear = (eps - slope * xt).square().mean().item()
        assert told - error < squares.mean() < linear + error
        strictly += bool(told + error < squares.mean() < linear - error)
    assert strictly >= 3
