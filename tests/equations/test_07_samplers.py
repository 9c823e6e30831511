"""The equations of chapter 7, each against a route that does not use it."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate

from diffusion_book import data, denoise, samplers, schedules


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def joint(variance: float, sigma_s: float, sigma_t: float) -> np.ndarray:
    """Covariance of (x_0, y_s, y_t) for one Gaussian pixel, y_t being y_s and independent noise."""
    between = variance + sigma_s**2
    return np.array(
        [[variance, variance, variance], [variance, between, between], [variance, between, variance + sigma_t**2]]
    )


def given(cov: np.ndarray, wanted: list[int], known: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The regression on what is known, and the covariance that is left."""
    gain = cov[np.ix_(wanted, known)] @ np.linalg.inv(cov[np.ix_(known, known)])
    return gain, cov[np.ix_(wanted, wanted)] - gain @ cov[np.ix_(known, wanted)]


@pytest.mark.equation("eq-samplers-posterior", by="samplers.walk")
@pytest.mark.parametrize(("sigma_s", "sigma_t"), [(1.0, 2.0), (0.1, 3.0), (5.0, 5.5)])
def test_the_posterior_in_y_is_a_conditional_gaussian(sigma_s, sigma_t):
    gain, left = given(joint(0.7, sigma_s, sigma_t), [1], [0, 2])
    share = sigma_s**2 / sigma_t**2
    assert gain[0] == pytest.approx([1 - share, share], rel=1e-9)
    assert left[0, 0] == pytest.approx(sigma_s**2 * (1 - share), rel=1e-9)
    (move,) = samplers.walk(schedules.EDM(sigma_max=sigma_t), [sigma_t, sigma_s, 0.0])[:1]
    assert (move.c_0, move.c_t, move.std**2) == pytest.approx((*gain[0], left[0, 0]), rel=1e-9)


@pytest.mark.equation("eq-samplers-missing")
@pytest.mark.parametrize(("sigma_s", "sigma_t", "c"), [(1.0, 2.0, 0.5), (0.1, 3.0, 2.0), (5.0, 5.5, 0.1)])
def test_what_a_step_of_ddpm_leaves_out(sigma_s, sigma_t, c):
    cov = joint(c**2, sigma_s, sigma_t)
    share = sigma_s**2 / sigma_t**2
    whole = given(cov, [1], [2])[1][0, 0]
    unknown = given(cov, [0], [2])[1][0, 0]
    assert whole - sigma_s**2 * (1 - share) == pytest.approx((1 - share) ** 2 * unknown, rel=1e-7)
    if c == 0.5:  # the page's numbers
        assert unknown == pytest.approx(0.235, abs=5e-4)
        assert (1 - share) ** 2 * unknown == pytest.approx(0.132, abs=5e-4)


@pytest.mark.equation("eq-samplers-family", by="samplers.ddim")
@pytest.mark.parametrize("std", [0.0, 0.2, 0.6])
def test_two_moments_leave_no_other_step(std):
    """The two equations solved numerically; then the marginal by Monte Carlo."""
    a_t, b_t, a_s, b_s = 0.6, 0.8, 0.8, 0.6
    m_t = float(np.roots([b_t**2, 0.0, std**2 - b_s**2]).real.max())  # m_t² b_t² + std² = b_s²
    m_0 = a_s - m_t * a_t
    assert m_t == pytest.approx(math.sqrt(b_s**2 - std**2) / b_t, abs=1e-7)
    n = 200_000
    eps, z = normals(2, n, seed=1)
    x_s = m_0 * 1.5 + m_t * (a_t * 1.5 + b_t * eps) + std * z
    assert float(x_s.mean()) == pytest.approx(a_s * 1.5, abs=5 * b_s / n**0.5)
    assert float(x_s.var()) == pytest.approx(b_s**2, rel=5 * (2 / n) ** 0.5)


@pytest.mark.equation("eq-samplers-update", by="samplers.ddim")
def test_the_update_keeps_the_marginal_with_the_true_x0():
    """With a denoiser that knows x_0 the library's walk must have the marginal at each time, for every η."""
    schedule, n, x0 = schedules.cosine(), 100_000, 0.7
    level = schedule.at(600)
    xt = float(level.a) * x0 + float(level.b) * normals(n, 1, seed=2)
    for eta in (0.0, 0.4, 1.0):
        seen = []
        samplers.ddim(
            lambda xt, t: torch.full_like(xt, x0),
            schedule,
            xt,
            [600, 250, 0],
            eta=eta,
            generator=torch.Generator().manual_seed(3),
            callback=seen.append,
        )
        after = schedule.at(250)
        assert float(seen[0].xs.mean()) == pytest.approx(float(after.a) * x0, abs=5 * float(after.b) / n**0.5)
        assert float(seen[0].xs.var()) == pytest.approx(float(after.b) ** 2, rel=5 * (2 / n) ** 0.5)


@pytest.mark.equation("eq-samplers-markov", by="samplers.walk")
def test_only_one_member_is_a_markov_chain():
    """x_t must not depend on x_0 once x_s is known: its regression on both gives x_0 no weight."""
    a_t, b_t, a_s, b_s = 0.6, 0.8, 0.8, 0.6
    b_ts = math.sqrt(b_t**2 - (a_t / a_s * b_s) ** 2)

    def weight_of_x0(std: float) -> float:
        m_t = math.sqrt(b_s**2 - std**2) / b_t
        to_s = np.array([[1, 0, 0], [a_s, m_t * b_t, std], [a_t, b_t, 0]])  # x_0, x_s, x_t from x_0, ε, z
        return float(given(to_s @ to_s.T, [2], [0, 1])[0][0, 0])

    std = b_s * b_ts / b_t
    assert weight_of_x0(std) == pytest.approx(0, abs=1e-12)
    assert min(abs(weight_of_x0(other)) for other in (0.0, 0.8 * std, 1.1 * std)) > 1e-2
    assert math.sqrt(b_s**2 - std**2) / b_t == pytest.approx(a_t / a_s * b_s**2 / b_t**2, rel=1e-12)


@pytest.mark.equation("eq-samplers-euler", by="samplers.ddim")
def test_ddim_is_eulers_method_in_sigma():
    """The library's DDIM on a VP schedule against Euler's steps in (σ, y), with slopes from the score by autograd."""
    ring, schedule = data.ring_of_gaussians(), schedules.linear()
    times = [900, 600, 300, 40, 0]
    xt = normals(20, 2, seed=4)
    y = xt / float(schedule.at(900).a)
    for t, s in pairwise(times):
        a, sigma_t, sigma_s = (float(value) for value in (schedule.at(t).a, schedule.at(t).sigma, schedule.at(s).sigma))
        point = y.clone().requires_grad_()
        log_q = ring.noised(1.0, sigma_t).log_prob(point).sum()
        slope = -sigma_t * torch.autograd.grad(log_q, point)[0]  # ε̂ = −σ ∇ log q(y)
        y = y + (sigma_s - sigma_t) * slope
        assert a > 0
    found = samplers.ddim(denoise.exact(ring, schedule), schedule, xt, times)
    assert torch.allclose(found, y, atol=1e-10)


@pytest.mark.equation("eq-samplers-pixel", by="samplers.probability_flow")
def test_the_curve_of_one_pixel():
    c, high = 0.3, 4.0
    for low in (1.0, 0.2, 1e-4):
        found = integrate.solve_ivp(
            lambda sigma, y: (y - c**2 * y / (c**2 + sigma**2)) / sigma, (high, low), [1.0], rtol=1e-10, atol=1e-12
        ).y[0, -1]
        assert found == pytest.approx(math.sqrt((1 + low**2 / c**2) / (1 + high**2 / c**2)), rel=1e-7)


@pytest.mark.equation("eq-samplers-heun", by="samplers.heun")
def test_the_mean_of_both_slopes_moves_eulers_end_by_half_of_r_minus_one():
    """Heun's step in its usual form, with slopes, for a denoiser that is no solution of anything."""

    def denoiser(y, sigma):
        return math.tanh(y / (1 + sigma))

    for y, sigma_t, sigma_s in ((3.0, 5.0, 1.0), (-80.0, 100.0, 0.2), (0.3, 0.5, 0.4)):
        slope = (y - denoiser(y, sigma_t)) / sigma_t
        euler = y + (sigma_s - sigma_t) * slope
        again = (euler - denoiser(euler, sigma_s)) / sigma_s
        heun = y + (sigma_s - sigma_t) * 0.5 * (slope + again)
        change_of_mind = denoiser(euler, sigma_s) - denoiser(y, sigma_t)
        assert heun - euler == pytest.approx(0.5 * (sigma_t / sigma_s - 1) * change_of_mind, rel=1e-9)


@pytest.mark.equation("eq-samplers-heun-miss")
@pytest.mark.parametrize("r", [1.1, 1.5, 2.0, 3.0, 30.0, 400.0])
def test_heuns_step_misses_by_r_minus_one_times_eulers(r):
    """Exact steps for N(0, c²) in sixty digits, at σ_s = 10⁴ c and 10⁵ c: the ratio tends to −(r − 1) as (c/σ_s)²."""
    with mpmath.workdps(60):
        c, gaps = mpmath.mpf(1), []
        for sigma_s in (mpmath.mpf(10) ** 4, mpmath.mpf(10) ** 5):
            sigma_t = sigma_s * mpmath.mpf(r)
            y, true_end = (mpmath.sqrt(sigma**2 + c**2) for sigma in (sigma_t, sigma_s))
            slope = y * sigma_t / (sigma_t**2 + c**2)
            euler = y + (sigma_s - sigma_t) * slope
            again = euler * sigma_s / (sigma_s**2 + c**2)
            heun = y + (sigma_s - sigma_t) * (slope + again) / 2
            gaps.append(abs((heun - true_end) / (euler - true_end) + (mpmath.mpf(r) - 1)))
        assert gaps[0] < 1e-4 * r
        assert gaps[1] < gaps[0] / 90


@pytest.mark.equation("eq-samplers-exact", by="samplers.dpm_solver")
@pytest.mark.parametrize("c", [0.2, 1.0, 5.0])
def test_the_step_goes_to_the_mean_answer(c):
    """The pixel's own curve, and the mean of x̂0 along it by quadrature in 1/σ."""
    sigma_t, sigma_s = 3.0, 0.4

    def answer(inverse: float) -> float:
        sigma = 1 / inverse
        return math.hypot(sigma, c) * c**2 / (c**2 + sigma**2)

    mean = integrate.quad(answer, 1 / sigma_t, 1 / sigma_s)[0] / (1 / sigma_s - 1 / sigma_t)
    keep = sigma_s / sigma_t
    assert keep * math.hypot(sigma_t, c) + (1 - keep) * mean == pytest.approx(math.hypot(sigma_s, c), rel=1e-9)


def means_of_w(h: float) -> tuple[float, float]:
    """Of w and w² under the weight e^{wh}, by quadrature."""
    weights = [integrate.quad(lambda w, n=n: w**n * math.exp((w - 1) * h), 0, 1)[0] for n in (0, 1, 2)]
    return weights[1] / weights[0], weights[2] / weights[0]


@pytest.mark.equation("eq-samplers-means", by="samplers.unipc")
@pytest.mark.parametrize("h", [0.05, 1.0, 6.0])
def test_the_means_of_w(h):
    m_1 = 1 / (1 - math.exp(-h)) - 1 / h
    m_2 = 1 / (1 - math.exp(-h)) - 2 * m_1 / h
    assert (m_1, m_2) == pytest.approx(means_of_w(h), rel=1e-8)


def one_step(sampler, sigmas, answers):
    """The end of a walk in which the denoiser gives these answers, whatever it is asked."""
    queue = iter(answers)
    edm = schedules.EDM(sigma_max=sigmas[0])
    seen = []

    def denoiser(xt, t):
        return torch.full_like(xt, next(queue))

    sampler(denoiser, edm, torch.zeros(1, 1, dtype=torch.float64), sigmas, callback=seen.append)
    return [float(step.xs) for step in seen]


@pytest.mark.equation("eq-samplers-2m", by="samplers.dpm_solver")
def test_2m_extends_the_line_to_the_middle_of_the_step():
    """D̄ read off the library's second step; and on a line in ℓ it is the exact mean but for M_1 ≠ ½, O(h²)."""
    sigmas, answers = [8.0, 4.0, 1.0, 0.0], [0.3, -0.2, 0.9]
    ends = one_step(samplers.dpm_solver, sigmas, answers)
    mean = (ends[1] - ends[0] / 4) / (1 - 1 / 4)
    h_old, h = math.log(2), math.log(4)
    middle = np.polyval(np.polyfit([-h_old, 0.0], answers[:2], 1), h / 2)
    assert mean == pytest.approx(middle, rel=1e-9)
    gaps = [abs(means_of_w(h)[0] - 0.5) for h in (0.2, 0.1)]
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.01)  # times h in the line's slope: h²


@pytest.mark.equation("eq-samplers-unipc", by="samplers.unipc")
def test_unipc_integrates_the_parabola_through_three_answers():
    """The corrected second step, read off what the library does next, against quadrature of numpy's parabola."""
    sigmas, answers = [8.0, 4.0, 1.0, 0.5, 0.0], [0.3, -0.2, 0.9, 0.1]
    ends = one_step(samplers.unipc, sigmas, answers)
    # The first corrected point, with ½ (x̂0 + x̂0_new), starts the second step; the third step starts at its correction.
    start = 0.5 * 0 + 0.5 * (answers[0] + answers[1]) / 2
    h_old, h = math.log(2), math.log(4)
    parabola = np.polyfit([-h_old, 0.0, h], answers[:3], 2)
    mean = integrate.quad(lambda u: np.polyval(parabola, u) * math.exp(u), 0, h)[0] / (math.exp(h) - 1)
    corrected = start / 4 + (1 - 1 / 4) * mean
    h_next = math.log(2)
    line = answers[2] + h_next / (2 * h) * (answers[2] - answers[1])
    assert ends[2] == pytest.approx(corrected / 2 + line / 2, rel=1e-9)


@pytest.mark.equation("eq-samplers-forget", by="samplers.ddim")
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_what_is_left_of_a_push(eta):
    """A crowd on the right curve and one beside it, walked by the library with the same noise."""
    c, high = 0.15, 1.0
    pixel = data.GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.0]], [[[c**2]]])))
    edm = schedules.EDM(sigma_max=high)
    times = [*torch.logspace(0, -4, 3001, dtype=torch.float64).tolist()[:-1], 0.0]
    left = []
    for push in (0.0, 1.0):
        x = samplers.ddim(
            denoise.exact(pixel, edm),
            edm,
            torch.full((1, 1), push, dtype=torch.float64),
            times,
            eta=eta,
            generator=torch.Generator().manual_seed(5) if eta else None,
        )
        left.append(float(x))
    share = c**2 / (c**2 + high**2)
    wanted = share if eta else math.sqrt(share)
    assert left[1] - left[0] == pytest.approx(wanted, rel=5e-3)
