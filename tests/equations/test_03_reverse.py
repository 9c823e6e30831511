"""Chapter 3: every derived equation of the reverse process, by another route."""

import functools
import math
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from diffusion_book import predictions, process, schedules

f64 = {"dtype": torch.float64}

# Data in one dimension that is neither Gaussian nor symmetric, of mean zero and variance one.
WEIGHT, CENTRE, WIDTH = (
    torch.tensor([0.35, 0.65], **f64),
    torch.tensor([-1.2, 0.8], **f64),
    torch.tensor([0.2, 0.5], **f64),
)
MEAN = (WEIGHT * CENTRE).sum()
SCALE = ((WEIGHT * (CENTRE**2 + WIDTH**2)).sum() - MEAN**2).sqrt()
CENTRE, WIDTH = (CENTRE - MEAN) / SCALE, WIDTH / SCALE
X = torch.linspace(-6, 6, 3001, **f64)
DX = X[1] - X[0]
P0 = (WEIGHT * Normal(CENTRE, WIDTH).log_prob(X[:, None]).exp()).sum(1)
# A chain of a few large, irregular steps: β_0 = 0, β_1 … β_4.
BETA = torch.tensor([0.0, 0.1, 0.3, 0.45, 0.6], **f64)
ALPHA_BAR = (1 - BETA).cumprod(0)
A, B = ALPHA_BAR.sqrt(), (1 - ALPHA_BAR).sqrt()


def log_pt(y: Tensor, a: float, b: float) -> Tensor:
    """log density of a x0 + b ε at y [N], by integrating over the data."""
    return (Normal(a * X, b).log_prob(y[:, None]) + P0.log()).logsumexp(1) + DX.log()


def derivatives(y: float, a: float, b: float, count: int) -> list[float]:
    """ℓ', ℓ'', … of ℓ = log q(x_t) at y, by autograd."""
    point = torch.tensor([y], **f64, requires_grad=True)
    value, found = log_pt(point, a, b), []
    for _ in range(count):
        (value,) = torch.autograd.grad(value.sum(), point, create_graph=True)
        found.append(value.item())
    return found


def given(xt: float, a: float, b: float) -> Tensor:
    """Probabilities on X of the point before, when x_t = a x + b ε was seen: Bayes on a grid."""
    return (P0.log() + Normal(a * X, b).log_prob(torch.tensor(xt, **f64))).softmax(0)


def cumulants(q: Tensor) -> list[float]:
    """The first four cumulants of probabilities q on X."""
    mean = (q * X).sum()
    m2, m3, m4 = ((q * (X - mean) ** k).sum() for k in (2, 3, 4))
    return [v.item() for v in (mean, m2, m3, m4 - 3 * m2**2)]


def condition(t: int, s: int, x0: float, xt: float) -> Normal:
    """q(x_s | x_t, x_0) from the joint covariance of the chain: the rule for conditional Gaussians."""
    cross = (1 - BETA[s + 1 : t + 1]).prod().sqrt() * B[s] ** 2
    slope = cross / B[t] ** 2
    return Normal(A[s] * x0 + slope * (xt - A[t] * x0), (B[s] ** 2 - slope * cross).sqrt())


# Why small steps are Gaussian ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-reverse-kernel")
def test_bayes_rule_gives_the_step_back_of_a_simulated_chain(generator):
    """Of many pairs (x_{t−1}, x_t), those whose x_t falls into a thin slice, against the density's two moments."""
    n, beta, xt, width = 2_000_000, 0.3, 0.4, 0.02
    component = torch.multinomial(WEIGHT, n, replacement=True, generator=generator)
    before = CENTRE[component] + WIDTH[component] * torch.randn(n, generator=generator, **f64)
    after = math.sqrt(1 - beta) * before + math.sqrt(beta) * torch.randn(n, generator=generator, **f64)
    seen = before[(after - xt).abs() < width / 2]
    likelihood = Normal(math.sqrt(1 - beta) * X, math.sqrt(beta)).log_prob(torch.tensor(xt, **f64)).exp()
    evidence = log_pt(torch.tensor([xt], **f64), math.sqrt(1 - beta), math.sqrt(beta)).exp()
    kernel = likelihood * P0 / evidence  # q(x_t | x_{t−1}) q(x_{t−1}) / q(x_t)
    assert (kernel.sum() * DX).item() == pytest.approx(1, abs=1e-9)
    for power in (1, 2):
        expected = (kernel * X**power).sum() * DX
        error = (seen**power).std() / len(seen) ** 0.5
        assert abs((seen**power).mean() - expected) < 4 * error


@pytest.mark.equation("eq-reverse-mean")
@pytest.mark.parametrize("beta", [0.01, 0.2, 0.7])
def test_the_mean_of_the_reverse_step_is_the_score_after_it(beta):
    for xt in (-1.1, 0.2, 1.5):
        a, b = math.sqrt(1 - beta), math.sqrt(beta)
        (score,) = derivatives(xt, a, b, 1)
        assert (xt + beta * score) / a == pytest.approx(cumulants(given(xt, a, b))[0], abs=1e-8)


@pytest.mark.equation("eq-reverse-variance")
@pytest.mark.parametrize("beta", [0.01, 0.2, 0.7])
def test_the_variance_of_the_reverse_step_is_the_curvature_after_it(beta):
    for xt in (-1.1, 0.2, 1.5):
        a, b = math.sqrt(1 - beta), math.sqrt(beta)
        curvature = derivatives(xt, a, b, 2)[1]
        assert beta / a**2 * (1 + beta * curvature) == pytest.approx(cumulants(given(xt, a, b))[1], abs=1e-8)


@pytest.mark.equation("eq-reverse-cumulants")
@pytest.mark.parametrize("beta", [0.05, 0.4])
def test_higher_cumulants_are_higher_derivatives(beta):
    a, b = math.sqrt(1 - beta), math.sqrt(beta)
    for xt in (-0.4, 0.9):
        *_, third, fourth = derivatives(xt, a, b, 4)
        found = cumulants(given(xt, a, b))
        assert (beta / a) ** 3 * third == pytest.approx(found[2], abs=1e-8)
        assert (beta / a) ** 4 * fourth == pytest.approx(found[3], abs=1e-8)


def kernel_kl(beta: float, xt: float, matched: bool) -> float:
    """KL of the exact reverse kernel from N(its mean, its variance or β), on a fine grid of its own."""
    a = math.sqrt(1 - beta)
    x = xt / a + math.sqrt(beta) / a * torch.linspace(-11, 11, 6001, **f64)
    log_p = (WEIGHT.log() + Normal(CENTRE, WIDTH).log_prob(x[:, None])).logsumexp(1)
    log_q = (log_p + Normal(a * x, math.sqrt(beta)).log_prob(torch.tensor(xt, **f64))).log_softmax(0)
    q = log_q.exp()
    mean = (q * x).sum()
    var = (q * (x - mean) ** 2).sum() if matched else torch.tensor(beta, **f64)
    return (q * (log_q - (x[1] - x[0]).log() - Normal(mean, var.sqrt()).log_prob(x))).sum().item()


def relative_error(beta: float, matched: bool) -> float:
    """Of the leading term, at a point between the blobs."""
    _, curvature, third = derivatives(-0.7, math.sqrt(1 - beta), math.sqrt(beta), 3)
    leading = beta**3 / 12 * third**2 if matched else beta**2 / 4 * (1 + curvature) ** 2
    return abs(kernel_kl(beta, -0.7, matched) / leading - 1)


@pytest.mark.equation("eq-reverse-kl-matched")
def test_leading_term_of_the_divergence_with_the_exact_variance():
    """The relative error of the leading term is O(β): small, and halved with β."""
    assert relative_error(4e-4, matched=True) < 0.1
    assert 1.6 < relative_error(8e-4, matched=True) / relative_error(4e-4, matched=True) < 2.5


@pytest.mark.equation("eq-reverse-kl-beta")
def test_leading_term_of_the_divergence_with_variance_beta():
    assert relative_error(4e-4, matched=False) < 0.1
    assert 1.6 < relative_error(8e-4, matched=False) / relative_error(4e-4, matched=False) < 2.5


@pytest.mark.equation("eq-reverse-curvature")
def test_curvature_of_the_noisy_density_is_what_is_unknown_of_the_data():
    for t in (1, 3):
        for xt in (-0.7, 0.5):
            curvature = derivatives(xt, A[t].item(), B[t].item(), 2)[1]
            unknown = cumulants(given(xt, A[t].item(), B[t].item()))[1]
            assert -1 / B[t] ** 2 + A[t] ** 2 / B[t] ** 4 * unknown == pytest.approx(curvature, rel=1e-6)


# The posterior ---------------------------------------------------------------------------------------------------


@pytest.mark.equation("eq-reverse-posterior", by="process.posterior")
def test_posterior_is_bayes_on_a_grid():
    for t in (2, 3, 4):
        for x0, xt in [(0.5, -0.3), (-1.0, 0.9)]:
            mean = A[t - 1] * BETA[t] / B[t] ** 2 * x0 + (1 - BETA[t]).sqrt() * B[t - 1] ** 2 / B[t] ** 2 * xt
            var = B[t - 1] ** 2 / B[t] ** 2 * BETA[t]
            brute = Normal((1 - BETA[t]).sqrt() * X, BETA[t].sqrt()).log_prob(torch.tensor(xt, **f64))
            q = (brute + Normal(A[t - 1] * x0, B[t - 1]).log_prob(X)).softmax(0)
            assert [mean.item(), var.item()] == pytest.approx(cumulants(q)[:2], abs=1e-9)


def general(t: int, s: int) -> tuple[Tensor, Tensor, Tensor]:
    """c_0, c_t and the variance as the chapter has them."""
    a_ts, b2_ts = A[t] / A[s], B[t] ** 2 - (A[t] / A[s] * B[s]) ** 2
    return A[s] * b2_ts / B[t] ** 2, a_ts * B[s] ** 2 / B[t] ** 2, B[s] ** 2 * b2_ts / B[t] ** 2


@pytest.mark.equation("eq-reverse-posterior-general", by="process.posterior")
def test_posterior_for_any_pair_is_conditioning_a_joint_gaussian():
    for t, s in [(4, 3), (4, 1), (3, 1), (2, 1)]:
        c_0, c_t, var = general(t, s)
        expected = condition(t, s, 0.7, -0.4)
        torch.testing.assert_close(c_0 * 0.7 + c_t * -0.4, expected.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(var, expected.variance, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("eq-reverse-coefficients", by="process.posterior_coefficients")
def test_coefficients_carry_the_signal_from_t_to_s():
    """On the noise-free ray x_t = a_t x_0 the posterior mean is a_s x_0: regression through the joint Gaussian."""
    for t, s in [(4, 2), (3, 2), (2, 1), (4, 0)]:
        c_0, c_t, _ = general(t, s)
        on_the_ray = condition(t, s, 1.0, A[t].item()).mean if s else torch.ones((), **f64)
        torch.testing.assert_close(c_0 + A[t] * c_t, on_the_ray, rtol=1e-12, atol=1e-12)
        assert c_0 + A[t] * c_t == pytest.approx(A[s].item())


@pytest.mark.equation("eq-reverse-bridge")
def test_posterior_is_a_bridge_in_scaled_coordinates():
    sigma = B / A
    for t, s in [(4, 3), (4, 1), (3, 2)]:
        w = sigma[s] ** 2 / sigma[t] ** 2
        assert w.item() == pytest.approx((ALPHA_BAR[t] / B[t] ** 2 * B[s] ** 2 / ALPHA_BAR[s]).item())
        expected = condition(t, s, 0.7, -0.4)
        torch.testing.assert_close((1 - w) * 0.7 + w * -0.4 / A[t], expected.mean / A[s], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(sigma[s] ** 2 * (1 - w), expected.variance / ALPHA_BAR[s], rtol=1e-12, atol=1e-12)


@cache
@functools.cache
def marginal(s: int) -> Tensor:
    """log p_s on X, by integrating over the data."""
    return log_pt(X, A[s].item(), B[s].item())


def reverse(t: int, s: int, xt: float) -> Tensor:
    """Probabilities on X of x_s given x_t: Bayes with the marginal p_s, no posterior involved."""
    a_ts = A[t] / A[s]
    jump = Normal(a_ts * X, (1 - a_ts**2).sqrt()).log_prob(torch.tensor(xt, **f64))
    return (marginal(s) + jump).softmax(0)


@pytest.mark.equation("eq-reverse-mixture")
def test_reverse_kernel_is_a_mixture_of_posteriors():
    t, s, xt = 3, 2, 0.2
    p_x0 = given(xt, A[t].item(), B[t].item())
    c_0, c_t, var = general(t, s)
    at = X[1200:1801:50]
    mixture = (Normal(c_0 * X + c_t * xt, var.sqrt()).log_prob(at[:, None]).exp() * p_x0).sum(1)
    torch.testing.assert_close(mixture, reverse(t, s, xt)[1200:1801:50] / DX, rtol=1e-7, atol=1e-9)


@pytest.mark.equation("eq-reverse-plug-in", by="samplers.ddpm")
@pytest.mark.parametrize(("t", "s"), [(3, 2), (4, 1)])
def test_plugging_the_conditional_mean_in_gives_the_exact_mean(t, s):
    for xt in (-1.0, 0.2):
        c_0, c_t, _ = general(t, s)
        x0_hat = cumulants(given(xt, A[t].item(), B[t].item()))[0]
        assert (c_0 * x0_hat + c_t * xt).item() == pytest.approx(cumulants(reverse(t, s, xt))[0], abs=1e-8)


@pytest.mark.equation("eq-reverse-total-variance")
@pytest.mark.parametrize(("t", "s"), [(3, 2), (4, 1)])
def test_the_variance_has_a_part_for_noise_and_a_part_for_ignorance(t, s):
    for xt in (-1.0, 0.2):
        c_0, _, var = general(t, s)
        unknown = cumulants(given(xt, A[t].item(), B[t].item()))[1]
        assert (var + c_0**2 * unknown).item() == pytest.approx(cumulants(reverse(t, s, xt))[1], abs=1e-8)


@pytest.mark.equation("eq-reverse-bounds")
@pytest.mark.parametrize(("t", "s"), [(2, 1), (3, 2), (4, 1)])
def test_small_and_large_bound_the_average_for_data_of_variance_one(t, s):
    assert cumulants(P0 * DX)[:2] == pytest.approx([0, 1], abs=1e-9)
    points = torch.linspace(-6, 6, 241, **f64)
    weight = log_pt(points, A[t].item(), B[t].item()).exp() * (points[1] - points[0])
    average = sum(w * cumulants(reverse(t, s, x))[1] for w, x in zip(weight.tolist(), points.tolist()))
    assert general(t, s)[2] < average < 1 - (A[t] / A[s]) ** 2
    # White noise reaches the upper end: a pair of correlation a_{t|s}.
    joint = torch.tensor([[1.0, (A[t] / A[s]).item()], [(A[t] / A[s]).item(), 1.0]], **f64)
    assert 1 / torch.linalg.inv(joint)[0, 0] == pytest.approx((1 - (A[t] / A[s]) ** 2).item())


# The ELBO --------------------------------------------------------------------------------------------------------


T = 4
COARSE = torch.linspace(-7, 7, 1401, **f64)
DC = COARSE[1] - COARSE[0]


def x0_hat(xt: Tensor, t: int) -> Tensor:
    """A denoiser that is not optimal: the bound holds for any."""
    return 0.8 * torch.tanh(xt * (1 + 0.2 * t)) + 0.1


def model(xt: Tensor, t: int) -> Normal:
    """p(x_{t−1} | x_t): the posterior's variance, and √β_1 at the last step."""
    c_0, c_t, var = general(t, t - 1) if t > 1 else (torch.ones((), **f64), torch.zeros((), **f64), BETA[1])
    return Normal(c_0 * x0_hat(xt, t) + c_t * xt, var.sqrt())


def forward(x: Tensor, t: int) -> Normal:
    return Normal((1 - BETA[t]).sqrt() * x, BETA[t].sqrt())


def naive_bound(log_start: Tensor) -> Tensor:
    """Σ_t E log q(x_t | x_{t−1}) − log p(x_{t−1} | x_t), minus E log p(x_T), by quadrature over pairs.

    log_start is the log-density of x_1 on COARSE; the term of t = 1 is left to the caller.
    """
    total, log_m = torch.zeros((), **f64), log_start
    for t in range(2, T + 1):
        log_q = forward(COARSE[:, None], t).log_prob(COARSE)  # [x_{t−1}, x_t]
        log_joint = log_m[:, None] + log_q
        total = total + (log_joint.exp() * (log_q - model(COARSE, t).log_prob(COARSE[:, None]))).sum() * DC**2
        log_m = log_joint.logsumexp(0) + DC.log()
    return total - (log_m.exp() * Normal(0.0, 1.0).log_prob(COARSE)).sum() * DC


def naive(x0: float) -> Tensor:
    start = Normal(A[1] * x0, B[1]).log_prob(COARSE)
    first = start - model(COARSE, 1).log_prob(torch.tensor(x0, **f64))
    return naive_bound(start) + (start.exp() * first).sum() * DC


@pytest.mark.equation("eq-reverse-naive")
def test_bound_is_the_average_log_ratio_and_lies_above_the_models_likelihood(generator):
    x0, n = 0.6, 40_000
    x = torch.full((n,), x0, **f64)
    log_p, log_q = torch.zeros(n, **f64), torch.zeros(n, **f64)
    for t in range(1, T + 1):
        before, x = x, forward(x, t).mean + BETA[t].sqrt() * torch.randn(n, generator=generator, **f64)
        log_q += forward(before, t).log_prob(x)
        log_p += model(x, t).log_prob(before)
    ratio = log_q - log_p - Normal(0.0, 1.0).log_prob(x)
    assert abs(ratio.mean() - naive(x0)) < 4 * ratio.std() / n**0.5
    density = Normal(0.0, 1.0).log_prob(COARSE).exp()  # p(x_T), pushed through the kernels
    for t in range(T, 0, -1):
        density = (model(COARSE, t).log_prob(COARSE[:, None]).exp() * density).sum(1) * DC
    exact = -density[(COARSE - x0).abs().argmin()].log()
    assert naive(x0) > exact
    weights = (-ratio).logsumexp(0) - math.log(n)  # log p(x_0) again, by importance sampling
    assert -weights == pytest.approx(exact.item(), abs=0.1)


@pytest.mark.equation("eq-reverse-telescope")
def test_a_forward_step_turned_around():
    for t in (2, 3, 4):
        for x0, before, xt in [(0.3, -0.2, 0.8), (-1.0, 0.5, 0.1)]:
            before, xt = torch.tensor(before, **f64), torch.tensor(xt, **f64)
            left = forward(before, t).log_prob(xt)
            right = condition(t, t - 1, x0, xt.item()).log_prob(before)
            right = right + Normal(A[t] * x0, B[t]).log_prob(xt) - Normal(A[t - 1] * x0, B[t - 1]).log_prob(before)
            torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


@pytest.mark.equation("eq-reverse-elbo", by="losses.vlb")
@pytest.mark.parametrize("x0", [0.6, -1.3])
def test_sum_of_divergences_is_the_naive_bound(x0):
    total = kl_divergence(Normal(A[T] * x0, B[T]), Normal(torch.zeros((), **f64), torch.ones((), **f64)))
    for t in range(2, T + 1):
        c_0, c_t, var = general(t, t - 1)
        q = Normal(c_0 * x0 + c_t * COARSE, var.sqrt())
        weight = Normal(A[t] * x0, B[t]).log_prob(COARSE).exp() * DC
        total = total + (weight * kl_divergence(q, model(COARSE, t))).sum()
    weight = Normal(A[1] * x0, B[1]).log_prob(COARSE).exp() * DC
    total = total - (weight * model(COARSE, 1).log_prob(torch.tensor(x0, **f64))).sum()
    torch.testing.assert_close(total, naive(x0), rtol=1e-8, atol=1e-8)


@pytest.mark.equation("eq-reverse-weight", by="process.posterior_kl")
def test_the_weight_is_half_the_snr_that_a_step_restores():
    snr = ALPHA_BAR / (1 - ALPHA_BAR)
    for t in (2, 3, 4):
        q, p = condition(t, t - 1, 0.9, 0.3), condition(t, t - 1, 0.2, 0.3)
        expected = 0.5 * (snr[t - 1] - snr[t]) * (0.9 - 0.2) ** 2
        torch.testing.assert_close(kl_divergence(q, p), expected, rtol=1e-11, atol=1e-11)
    schedule = schedules.Discrete(BETA[1:])
    library = process.posterior_kl(schedule, torch.tensor([[0.9]], **f64), torch.tensor([[0.2]], **f64), 3)
    assert library.item() == pytest.approx((0.5 * (snr[2] - snr[3]) * 0.49).item())


@pytest.mark.equation("eq-reverse-gap")
def test_the_gap_is_the_sum_of_what_each_reverse_step_gets_wrong():
    p0 = (WEIGHT * Normal(CENTRE, WIDTH).log_prob(COARSE[:, None]).exp()).sum(1)
    entropy = -(torch.xlogy(p0, p0)).sum() * DC
    # The bound, averaged over data, from pairs (x_{t−1}, x_t) of the forward chain.
    log_q = forward(COARSE[:, None], 1).log_prob(COARSE)
    joint = p0[:, None] * log_q.exp()
    bound = (joint * (log_q - model(COARSE, 1).log_prob(COARSE[:, None]))).sum() * DC**2
    bound = bound + naive_bound((joint.sum(0) * DC).log())
    # The gap, from the exact reverse kernels.
    gap, m = torch.zeros((), **f64), p0
    for t in range(1, T + 1):
        joint = m[:, None] * forward(COARSE[:, None], t).log_prob(COARSE).exp()
        after = joint.sum(0) * DC
        kernel = joint / after
        divergence = (torch.xlogy(kernel, kernel) - kernel * model(COARSE, t).log_prob(COARSE[:, None])).sum(0) * DC
        gap, m = gap + (after * divergence).sum() * DC, after
    gap = gap + (m * (m.log() - Normal(0.0, 1.0).log_prob(COARSE))).sum() * DC
    torch.testing.assert_close(bound - entropy, gap, rtol=1e-6, atol=1e-6)


@pytest.mark.equation("eq-reverse-euler")
def test_first_steps_cost_half_of_eulers_constant():
    """From the divergences of the two variances themselves, for equal steps that start from clean data."""
    n, gamma = 3000, 0.5772156649015329
    beta = torch.full((n,), 1e-12, **f64)
    b2 = -torch.expm1(torch.log1p(-beta).cumsum(0))
    small = beta[1:] * b2[:-1] / b2[1:]
    zero = torch.zeros(n - 1, **f64)
    divergences = kl_divergence(Normal(zero, beta[1:].sqrt()), Normal(zero, small.sqrt()))
    t = torch.arange(2, n + 1, **f64)
    torch.testing.assert_close(divergences, 0.5 * (1 / (t - 1) - (t / (t - 1)).log()), rtol=1e-5, atol=1e-12)
    harmonic = (1 / torch.arange(1, n, **f64)).sum()
    assert divergences.sum().item() == pytest.approx(0.5 * (harmonic - math.log(n)).item(), rel=1e-6)
    assert gamma / 2 - 0.5 / n < divergences.sum() < gamma / 2


# Four faces ------------------------------------------------------------------------------------------------------


@pytest.mark.equation("eq-reverse-tweedie", by="predictions.to_x0")
@pytest.mark.parametrize(("a", "b"), [(0.9, math.sqrt(0.19)), (0.4, math.sqrt(0.84)), (1.0, 0.7)])
def test_tweedie(a, b):
    """Also where a² + b² is not one."""
    for xt in (-1.0, 0.3):
        (score,) = derivatives(xt, a, b, 1)
        mean = cumulants(given(xt, a, b))[0]
        assert (xt + b**2 * score) / a == pytest.approx(mean, abs=1e-8)
        assert (a * mean - xt) / b**2 == pytest.approx(score, abs=1e-7)


@pytest.mark.equation("eq-reverse-eps-score", by="data.toys.GaussianMixture.score")
def test_the_expected_noise_is_the_score():
    """E[ε | x_t] integrated over ε: the density of ε given x_t is ∝ N(ε) p_0((x_t − b ε)/a)."""
    for t in (1, 3):
        for xt in (-0.8, 0.6):
            data_at = (xt - B[t] * X) / A[t]
            log_p0 = (WEIGHT.log() + Normal(CENTRE, WIDTH).log_prob(data_at[:, None])).logsumexp(1)
            eps = ((Normal(0.0, 1.0).log_prob(X) + log_p0).softmax(0) * X).sum().item()
            (score,) = derivatives(xt, A[t].item(), B[t].item(), 1)
            assert eps == pytest.approx((-B[t] * score).item(), abs=1e-7)
            x0_mean = cumulants(given(xt, A[t].item(), B[t].item()))[0]
            assert eps == pytest.approx(((xt - A[t] * x0_mean) / B[t]).item(), abs=1e-7)


@pytest.mark.equation("eq-reverse-rotation", by="predictions.target")
def test_velocity_is_the_derivative_in_the_angle():
    x0, eps, phi = torch.tensor(0.7, **f64), torch.tensor(-1.1, **f64), torch.tensor(0.6, **f64, requires_grad=True)
    (v,) = torch.autograd.grad(phi.cos() * x0 + phi.sin() * eps, phi)
    turn = torch.stack([torch.stack([phi.cos(), phi.sin()]), torch.stack([-phi.sin(), phi.cos()])]).detach()
    xt, v_matrix = turn @ torch.stack([x0, eps])
    torch.testing.assert_close(v, v_matrix)
    torch.testing.assert_close(v, phi.cos().detach() * eps - phi.sin().detach() * x0)
    torch.testing.assert_close(torch.linalg.solve(turn, torch.stack([xt, v])), torch.stack([x0, eps]))


@pytest.mark.equation("eq-reverse-amplification", by="predictions.from_x0")
def test_what_an_error_becomes():
    """The whole table, as derivatives of the library's conversions."""
    schedule, t = schedules.cosine(50), 37
    a, b = schedule.at(t).a.item(), schedule.at(t).b.item()
    xt = torch.tensor([[0.4]], **f64)
    table = {
        "x0": {"x0": 1, "eps": a / b, "v": 1 / b, "score": a / b**2},
        "eps": {"x0": b / a, "eps": 1, "v": 1 / a, "score": 1 / b},
        "v": {"x0": b, "eps": a, "v": 1, "score": a / b},
        "score": {"x0": b**2 / a, "eps": b, "v": b / a, "score": 1},
    }
    for source, row in table.items():
        for goal, factor in row.items():
            output = torch.tensor([[-0.3]], **f64, requires_grad=True)
            x0 = predictions.to_x0(source, output, schedule, xt, t)
            (slope,) = torch.autograd.grad(predictions.from_x0(goal, x0, schedule, xt, t).sum(), output)
            assert abs(slope.item()) == pytest.approx(factor, rel=1e-9), f"{source} to {goal}"


# Ancestral sampling ----------------------------------------------------------------------------------------------


@pytest.mark.equation("eq-reverse-mixture-mean", by="data.toys.GaussianMixture.posterior_mean")
def test_mixture_mean_is_bayes_on_a_plane():
    weight, s = torch.tensor([0.2, 0.5, 0.3], **f64), 0.4
    mean = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.0, -1.2]], **f64)
    a, b = 0.7, 0.6
    xt = torch.tensor([[0.1, -0.2], [0.9, 0.4]], **f64)
    var = a**2 * s**2 + b**2
    eye = torch.eye(2, **f64)
    r = torch.stack([MultivariateNormal(a * m, var * eye).log_prob(xt) for m in mean], 1) + weight.log()
    given_k = mean + a * s**2 / var * (xt[:, None] - a * mean)
    found = (r.softmax(1)[..., None] * given_k).sum(1)
    axis = torch.linspace(-4, 4, 321, **f64)
    plane = torch.cartesian_prod(axis, axis)
    log_p = torch.stack([MultivariateNormal(m, s**2 * eye).log_prob(plane) for m in mean], 1) + weight.log()
    for point, expected in zip(xt, found):
        p = (log_p.logsumexp(1) - ((point - a * plane) ** 2).sum(1) / (2 * b**2)).softmax(0)
        torch.testing.assert_close((p[:, None] * plane).sum(0), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.equation("eq-reverse-collapse")
def test_following_the_mean_ends_at_the_mean():
    """For white noise, regress x_{t−1} on x_t with the covariances of a simulated forward step's definition."""
    beta = torch.linspace(0.02, 0.3, 25, **f64)
    x = torch.tensor([1.7, -0.4], **f64)
    start = x.clone()
    for step in beta.flip(0):
        # x_t = √(1−β) x_{t−1} + √β ε as a linear map of two independent unit variables.
        now = torch.stack([(1 - step).sqrt(), step.sqrt()])
        before = torch.tensor([1.0, 0.0], **f64)
        x = (before @ now) / (now @ now) * x
    torch.testing.assert_close(x, (1 - beta).prod().sqrt() * start, rtol=1e-12, atol=1e-12)
