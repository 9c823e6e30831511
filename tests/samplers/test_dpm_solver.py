"""DPM-Solver++ against diffusers, k-diffusion's formulas, polynomials that it must not miss, and closed forms."""

import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from diffusion_book import denoise, schedules
from diffusion_book.data import ring_of_gaussians
from diffusion_book.samplers import Step, ddim, dpm_solver, log_snr_times, start_noise, uniform_times

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "timestep_spacing": "trailing"}
FACES = [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")]


class WholeCurvature(DPMSolverMultistepScheduler):
    """diffusers takes (d_01 − d_12)/(r_0 + r_1) for the second derivative D2, which is half of it: add the rest.

    Its single-step solver has the 2 that is missing here.
    """

    def multistep_dpm_solver_third_order_update(self, model_output_list, *args, sample=None, noise=None, **kwargs):
        found = super().multistep_dpm_solver_third_order_update(model_output_list, sample=sample, noise=noise)
        log_sigma = self.sigmas.log()
        i = self.step_index
        h, h_0, h_1 = (log_sigma[i - k] - log_sigma[i + 1 - k] for k in range(3))
        m0, m1, m2 = reversed(model_output_list[-3:])
        half = ((m0 - m1) / (h_0 / h) - (m1 - m2) / (h_1 / h)) / ((h_0 + h_1) / h)
        alpha = 1 / (1 + self.sigmas[i + 1] ** 2).sqrt()
        return found - alpha * ((torch.exp(-h) - 1 + h) / h**2 - 0.5) * half


def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.sin(xt + t[:, None] / 500)


def their_loop(scheduler, steps, x, generator=None):
    """diffusers' own loop, with its time index k = t − 1; the grid that it visits, and the sample."""
    scheduler.set_timesteps(steps)
    for k in scheduler.timesteps:
        x = scheduler.step(network(x, torch.full((len(x),), int(k) + 1)), k, x, generator=generator).prev_sample
    return [int(k) + 1 for k in scheduler.timesteps] + [0], x


@pytest.mark.parametrize(("prediction", "name"), FACES)
@pytest.mark.parametrize("steps", [1, 2, 10, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_loop_is_that_of_diffusers(order, steps, prediction, name, double, generator):
    double(DPMSolverMultistepScheduler)
    theirs = WholeCurvature(
        **LINEAR,
        prediction_type=name,
        solver_order=order,
        final_sigmas_type="zero",
        lower_order_final=False,
        euler_at_final=True,
    )
    schedule = schedules.linear()
    x = start_noise((4, 3), generator, torch.float64)
    times, expected = their_loop(theirs, steps, x)
    assert times == uniform_times(schedule, steps)
    found = dpm_solver(denoise.from_network(network, schedule, prediction), schedule, x, times, order=order)
    # Double precision in both; x̂0 is magnified by up to 1/a = 157, and their ᾱ is a product of a thousand roundings.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_the_sde_form_is_that_of_diffusers_with_the_same_noise(order, double, generator):
    theirs = double(DPMSolverMultistepScheduler)(
        **LINEAR,
        algorithm_type="sde-dpmsolver++",
        solver_order=order,
        final_sigmas_type="zero",
        lower_order_final=False,
        euler_at_final=True,
    )
    schedule = schedules.linear()
    x = start_noise((4, 3), generator, torch.float64)
    times, expected = their_loop(theirs, 20, x, torch.Generator().manual_seed(3))
    denoiser = denoise.from_network(network, schedule, "eps")
    found = dpm_solver(denoiser, schedule, x, times, order=order, eta=1.0, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_third_order_step_is_that_of_k_diffusion_but_for_its_half_curvature(eta, generator):
    """`dpmpp_3m_sde` in x/a and σ, as printed there; its d2 is half of h² times the second derivative."""
    schedule = schedules.EDM()
    denoiser = denoise.exact(ring_of_gaussians(), schedule)
    times = [60.0, 20.0, 9.0, 5.0, 1.0, 0.3, 0.0]
    x = start = 60 * start_noise((6, 2), generator, torch.float64)
    noise = torch.Generator().manual_seed(5)
    denoised_1 = denoised_2 = h_1 = h_2 = None
    for sigma, to in pairwise(times[:-1]):
        denoised = denoiser(x, torch.full((6,), sigma, dtype=torch.float64))
        h = math.log(sigma / to)
        h_eta = h * (eta + 1)
        x = math.exp(-h_eta) * x - math.expm1(-h_eta) * denoised
        phi_2 = math.expm1(-h_eta) / h_eta + 1
        phi_3 = phi_2 / h_eta - 0.5
        if h_2 is not None:
            r_0, r_1 = h_1 / h, h_2 / h
            d1_0, d1_1 = (denoised - denoised_1) / r_0, (denoised_1 - denoised_2) / r_1
            d1 = d1_0 + (d1_0 - d1_1) * r_0 / (r_0 + r_1)
            d2 = (d1_0 - d1_1) / (r_0 + r_1)
            x = x + phi_2 * d1 - 2 * phi_3 * d2
        elif h_1 is not None:
            # Theirs has φ_2 here, the exact integral of a line; ours the paper's ½(1 − e^−h), as in 2M.
            x = x - 0.5 * math.expm1(-h_eta) * (denoised - denoised_1) / (h_1 / h)
        if eta:
            x = x + to * math.sqrt(-math.expm1(-2 * h * eta)) * torch.randn(6, 2, generator=noise, dtype=x.dtype)
        denoised_1, denoised_2, h_1, h_2 = denoised, denoised_1, h, h_1
    seen: list[Step] = []
    dpm_solver(
        denoiser,
        schedule,
        start,
        times,
        order=3,
        eta=eta,
        generator=torch.Generator().manual_seed(5),
        callback=seen.append,
    )
    torch.testing.assert_close(seen[-2].xs, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_parabola_in_half_the_log_snr_is_integrated_exactly(eta):
    """What order 3 means: where x̂0 is a parabola in ℓ, the step from the third on makes no error at all.

    Compared with the integral that the step stands for, by Gauss–Legendre with 40 nodes.
    """
    schedule = schedules.VP()

    def parabola(ell: torch.Tensor) -> torch.Tensor:
        return 0.3 - 0.8 * ell + 0.5 * ell**2

    times = [0.9, 0.7, 0.55, 0.3, 0.0]
    seen: list[Step] = []
    x = torch.zeros(1, 1, dtype=torch.float64)
    zeros = torch.Generator().manual_seed(0)
    dpm_solver(
        lambda xt, t: parabola(0.5 * schedule.at(t).like(xt).log_snr),
        schedule,
        x,
        times,
        order=3,
        eta=eta,
        generator=zeros,
        callback=seen.append,
    )
    noise = torch.Generator().manual_seed(0)
    noises = [torch.randn(1, 1, generator=noise, dtype=torch.float64) for _ in range(3)]
    t, s = times[2:4]
    ell_t, ell_s = (0.5 * schedule.at(time).log_snr for time in (t, s))
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(40))
    ell = ell_t + (ell_s - ell_t) * (nodes + 1) / 2
    k = 1 + eta
    integral = (weights * k * torch.exp(-k * (ell_s - ell)) * parabola(ell)).sum() * (ell_s - ell_t) / 2
    shrink = torch.exp(ell_t - ell_s)
    expected = schedule.at(s).b / schedule.at(t).b * shrink**eta * seen[1].xs + schedule.at(s).a * integral
    expected = expected + schedule.at(s).b * (1 - shrink ** (2 * eta)).sqrt() * noises[2]
    torch.testing.assert_close(seen[2].xs, expected, rtol=1e-12, atol=1e-12)


def test_order_2_is_of_second_order(order_of):
    assert order_of(dpm_solver, [40, 80, 160, 320]) == pytest.approx(2, abs=0.1)


def test_order_1_is_ddim(generator):
    schedule = schedules.linear()
    x = start_noise((5, 2), generator, torch.float64)
    denoiser, times = denoise.exact(ring_of_gaussians(), schedule), uniform_times(schedule, 10)
    found = dpm_solver(denoiser, schedule, x, times, order=1)
    torch.testing.assert_close(found, ddim(denoiser, schedule, x, times), rtol=1e-10, atol=1e-10)


def test_order_1_of_the_sde_form_is_ddim_with_all_its_noise_on_gaussians_that_are_points(generator):
    """For a point of data the reverse SDE draws x_s from the posterior, exactly: both must, with the same noise."""
    schedule = schedules.cosine()
    x = start_noise((5, 2), generator, torch.float64)
    seen: list[list[Step]] = [[], []]
    for sampler, options, steps in ((ddim, {}, seen[0]), (dpm_solver, {"order": 1}, seen[1])):
        noise = torch.Generator().manual_seed(1)
        sampler(
            lambda xt, t: torch.full_like(xt, 0.7),
            schedule,
            x,
            [900, 400, 10, 0],
            eta=1.0,
            generator=noise,
            callback=steps.append,
            **options,
        )
    for one, other in zip(*seen):
        torch.testing.assert_close(one.xs, other.xs, rtol=1e-10, atol=1e-10)


def test_order_3_is_of_third_order(order_of):
    """The first step is DDIM's, whose local error h² would stay: made h^1.5 long it leaves h³, as the others do."""
    order = order_of(
        lambda *args, **kwargs: dpm_solver(*args, order=3, **kwargs), [320, 640, 1280, 2560], first=lambda h: h**1.5
    )
    assert order == pytest.approx(3, abs=0.15)


def test_half_the_curvature_would_be_of_second_order(gaussian_flow, monkeypatch):
    """What the published multistep formula does, and why it is not used here."""
    module = sys.modules[dpm_solver.__module__]
    weights = module._weights

    def published(h, lengths, eta):
        found = weights(h, lengths, eta)
        if len(lengths) < 2:
            return found
        r_1, r_2 = (length / h for length in lengths)
        m_1 = 1 + math.expm1(-h) / h
        half = -(m_1 / h - 0.5) / (r_1 + r_2)  # −φ_3 (d_01 − d_12)/(r_1 + r_2), which is counted twice
        return [w - half * d for w, d in zip(found, (1 / r_1, -1 / r_1 - 1 / r_2, 1 / r_2))]

    monkeypatch.setattr(module, "_weights", published)
    coarse, fine = (
        gaussian_flow(lambda *args, **kwargs: dpm_solver(*args, order=3, **kwargs), n, (math.log(400) / n) ** 1.5)
        for n in (320, 640)
    )
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("variance", [0.1, 1.0, 3.0])
def test_the_sde_form_keeps_the_variance_of_gaussian_data(variance, order, generator):
    """At each time of the grid x_t has variance a² s² + b²; 60 steps even in log σ leave under half a percent."""
    schedule, n = schedules.VP(), 40_000

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        _, a, b = schedule.at(t).like(xt)
        return a * variance / (a**2 * variance + b**2) * xt

    times = log_snr_times(schedule, 60, sigma_min=0.02)
    x = start_noise((n, 1), generator, torch.float64)
    seen: list[Step] = []
    dpm_solver(denoiser, schedule, x, times, order=order, eta=1.0, generator=generator, callback=seen.append)
    # Order 1 is off by O(h): its own variance follows by recursion, since each step is linear.
    expected = 1.0
    for step in seen[:-1]:
        (_, a_t, b_t), (_, a_s, b_s) = (map(float, schedule.at(time)) for time in (step.t, step.s))
        shrink = b_s / a_s * a_t / b_t
        gain = a_t * variance / (a_t**2 * variance + b_t**2)
        kept = b_s / b_t * shrink + a_s * (1 - shrink**2) * gain
        expected = kept**2 * expected + b_s**2 * (1 - shrink**2)
    true = a_s**2 * variance + b_s**2
    if order == 2:
        expected = true  # its bias, O(h²), is below the Monte Carlo error
    found = seen[-2].xs.var().item()
    assert found == pytest.approx(expected, rel=4 * (2 / n) ** 0.5 + (0.005 if order == 2 else 0))


@pytest.mark.parametrize("order", [0, 4, 2.5, "2M", 2.0, None])
def test_an_order_that_there_is_not_is_refused(order):
    with pytest.raises(ValueError, match="order must be 1, 2 or 3, got"):
        dpm_solver(lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 1), [1.0, 0.0], order=order)


@pytest.mark.parametrize("eta", [-0.5, float("nan"), float("inf")])
def test_a_negative_or_infinite_eta_is_refused(eta):
    with pytest.raises(ValueError, match=r"eta must be finite and not negative \(0 is the ODE, 1 the SDE\), got"):
        dpm_solver(
            lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 1), [1.0, 0.0], eta=eta, generator=torch.Generator()
        )


def test_noise_without_a_generator_is_refused():
    with pytest.raises(ValueError, match=r"eta > 0 draws noise, so pass a torch\.Generator; eta = 0 needs none"):
        dpm_solver(lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 1), [1.0, 0.0], eta=1.0)


def test_the_ode_draws_nothing_from_a_generator_that_it_is_given(generator):
    before = generator.get_state()
    dpm_solver(lambda xt, t: 0.5 * xt, schedules.Flow(), torch.ones(1, 1), [1.0, 0.5, 0.0], generator=generator)
    assert torch.equal(generator.get_state(), before)
