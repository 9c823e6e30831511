"""UniPC against diffusers, and the orders that it claims on an ODE with a closed form."""

import math
import sys

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from diffusion_book import denoise, schedules
from diffusion_book.data import ring_of_gaussians
from diffusion_book.samplers import start_noise, uniform_times, unipc

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "timestep_spacing": "trailing"}


def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.sin(xt + t[:, None] / 500)


@pytest.mark.parametrize(("prediction", "name"), [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_loop_is_that_of_diffusers(order, steps, prediction, name, double, generator):
    theirs = double(UniPCMultistepScheduler)(
        **LINEAR, prediction_type=name, solver_order=order, solver_type="bh2", final_sigmas_type="zero"
    )
    theirs.set_timesteps(steps)
    schedule = schedules.linear()
    x = start = start_noise((4, 3), generator, torch.float64)
    for k in theirs.timesteps:
        x = theirs.step(network(x, torch.full((4,), int(k) + 1)), k, x).prev_sample
    times = [int(k) + 1 for k in theirs.timesteps] + [0]
    assert times == uniform_times(schedule, steps)
    found = unipc(denoise.from_network(network, schedule, prediction), schedule, start, times, order=order)
    # Double precision in both; x̂0 is magnified by up to 1/a = 157, and their ᾱ is a product of a thousand roundings.
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("order", "counts", "first"),
    [
        (1, [40, 80, 160, 320], None),
        (2, [40, 80, 160, 320], None),
        # The first step knows one x̂0 before it and one after: its local error h³ must be made h⁴ to see the order.
        (3, [320, 640, 1280], lambda h: h ** (4 / 3)),
    ],
)
def test_with_its_corrector_it_is_one_order_better_than_its_predictor(order, counts, first, order_of):
    found = order_of(lambda *args, **kwargs: unipc(*args, order=order, **kwargs), counts, first)
    assert found == pytest.approx(order + 1, abs=0.15)


def test_the_order_is_two_unless_said(generator):
    """As that of diffusers' scheduler is."""
    denoiser = denoise.exact(ring_of_gaussians(), schedules.linear())
    x, times = start_noise((3, 2), generator), uniform_times(schedules.linear(), 6)
    found = unipc(denoiser, schedules.linear(), x, times)
    two, three = (unipc(denoiser, schedules.linear(), x, times, order=order) for order in (2, 3))
    assert UniPCMultistepScheduler().config["solver_order"] == 2
    assert torch.equal(found, two)
    assert not torch.equal(found, three)


@pytest.mark.parametrize("order", [2, 3])
def test_the_corrector_costs_no_evaluation(order, generator):
    calls = []
    exact = denoise.exact(ring_of_gaussians(), schedules.linear())
    x = start_noise((3, 2), generator)
    unipc(
        lambda xt, t: calls.append(1) or exact(xt, t),
        schedules.linear(),
        x,
        uniform_times(schedules.linear(), 7),
        order=order,
    )
    assert len(calls) == 7


@pytest.mark.parametrize("h", [0.01, 0.7, 3.0])
@pytest.mark.parametrize("r", [[-0.6, 1.0], [-0.5, -1.3], [-0.5, -1.3, 1.0]])
def test_the_weights_integrate_polynomials_exactly(h, r):
    """∫ e^{−h(1−v)} v^n h dv/(1 − e^−h) from 0 to 1 is Σ_k w_k r_k^n for n = 1 … K, by Gauss–Legendre."""
    weights = sys.modules[unipc.__module__]._weights(r, h)
    nodes, gauss = np.polynomial.legendre.leggauss(30)
    v = (nodes + 1) / 2
    for n in range(1, len(r) + 1):
        exact = 0.5 * (gauss * h * np.exp(-h * (1 - v)) * v**n).sum() / -math.expm1(-h)
        assert sum(w * rk**n for w, rk in zip(weights, r)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("order", [0, 4, 1.5, 2.0, None])
def test_an_order_that_there_is_not_is_refused(order):
    with pytest.raises(ValueError, match="order must be 1, 2 or 3, got"):
        unipc(lambda xt, t: xt, schedules.Flow(), torch.zeros(1, 1), [1.0, 0.0], order=order)
