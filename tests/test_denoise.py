"""Denoisers against closed forms."""

import importlib
import re
from functools import partial

import pytest
import torch

from _support.schedules import normal, times_of
from diffusion_book import denoise, guidance, predictions, process, samplers, schedules
from diffusion_book.data import ring_of_gaussians
from diffusion_book.predictions import PREDICTIONS
from diffusion_book.schedules import EDM, VP, Cosine, Flow

SCHEDULE = schedules.linear(100)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_of_any_face_is_the_exact_denoiser(prediction, generator):
    """Write the exact score as each face by its definition, hand it over as a network, and x̂0 must be E[x0 | x_t]."""
    ring = ring_of_gaussians()
    t = torch.tensor([1, 30, 100])
    xt = torch.randn(3, 2, generator=generator, dtype=torch.float64)

    def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, b = SCHEDULE.alpha_bar[t].sqrt()[:, None], (1 - SCHEDULE.alpha_bar[t]).sqrt()[:, None]
        score = ring.score(xt, a, b)
        eps = -b * score
        x0 = (xt + b**2 * score) / a  # Tweedie
        if prediction == "F":
            return b * x0 - a * eps
        if prediction == "u":  # the angle moves linearly within the step to t
            before = torch.atan2(b, a)[:, 0] - (1 / SCHEDULE.alpha_bar[t - 1] - 1).sqrt().atan()
            return before[:, None] * (a * eps - b * x0)
        return {"eps": eps, "x0": x0, "v": a * eps - b * x0, "score": score}[prediction]

    found = denoise.from_network(network, SCHEDULE, prediction)(xt, t)
    torch.testing.assert_close(found, denoise.exact(ring, SCHEDULE)(xt, t), rtol=1e-8, atol=1e-8)


def test_labels_reach_the_network():
    def network(xt: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y[:, None].expand_as(xt).float()

    y = torch.tensor([4, 7])
    x0_hat = denoise.from_network(network, SCHEDULE, "x0", {"y": y})(torch.zeros(2, 3), torch.tensor([5, 6]))
    assert x0_hat.tolist() == [[4.0] * 3, [7.0] * 3]


def test_clipping_holds_for_a_network_that_explodes():
    x0_hat = denoise.from_network(lambda xt, t: 1e6 * torch.ones_like(xt), SCHEDULE, "eps", x0_max=1.0)(
        torch.zeros(2, 3), torch.tensor([100, 1])
    )
    assert bool((x0_hat == -1).all())


@pytest.mark.parametrize("t", [torch.tensor(5).expand(2), torch.tensor([5, 6])], ids=["shared", "own"])
def test_a_batch_of_integers_is_refused(t):
    with pytest.raises(ValueError, match="floating point"):
        denoise.from_network(lambda xt, t: xt.float(), SCHEDULE, "eps")(torch.ones(2, 3, dtype=torch.long), t)


def test_what_was_sampled_in_inference_mode_can_be_differentiated_later():
    denoiser, t = denoise.from_network(lambda xt, t: xt, SCHEDULE, "v"), torch.tensor(50).expand(2)
    with torch.inference_mode():
        denoiser(torch.ones(2, 3), t)
    xt = torch.ones(2, 3, requires_grad=True)
    denoiser(xt, t).sum().backward()
    slope = (SCHEDULE.at(50).a - SCHEDULE.at(50).b).float()
    torch.testing.assert_close(xt.grad, slope.expand(2, 3))


def test_sampling_builds_no_graph():
    layer = torch.nn.Linear(3, 3)
    x0_hat = denoise.from_network(lambda xt, t: layer(xt), SCHEDULE, "v")(torch.zeros(2, 3), torch.tensor([5, 6]))
    assert not x0_hat.requires_grad


def test_an_unknown_prediction_is_refused_before_anything_is_sampled():
    for make in (denoise.from_network, partial(denoise.from_network, learned_variance=True)):
        with pytest.raises(ValueError, match=r"unknown prediction 'noise'; choose one of eps, x0, v, score, u, F$"):
            make(lambda xt, t: xt, SCHEDULE, "noise")
        with pytest.raises(ValueError, match=r"unknown prediction 'scores' \(did you mean 'score'\?\)"):
            make(lambda xt, t: xt, SCHEDULE, "scores")


def test_the_exact_denoiser_at_full_noise_is_the_mean_of_the_data(generator):
    """With zero terminal SNR x_T says nothing, so the best guess is the mean: no division by a = 0."""
    schedule = schedules.zero_terminal_snr(SCHEDULE)
    ring = ring_of_gaussians()
    xt = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    x0_hat = denoise.exact(ring, schedule)(xt, torch.full((4,), schedule.T))
    torch.testing.assert_close(x0_hat, torch.zeros_like(xt), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_exact_denoiser_keeps_the_dtype(dtype):
    x0_hat = denoise.exact(ring_of_gaussians(), SCHEDULE)(torch.zeros(2, 2, dtype=dtype), torch.tensor([3, 9]))
    assert x0_hat.dtype == dtype


def test_the_exact_denoiser_has_the_least_error(generator):
    """E‖x0 − f(x_t)‖² is least at the posterior mean: a shift of it by δ costs δ² more, within Monte Carlo."""
    ring, t, n, shift = ring_of_gaussians(), 40, 20_000, 0.3
    x0 = ring.sample(n, generator)
    xt = process.add_noise(SCHEDULE, x0, t, torch.randn(n, 2, generator=generator, dtype=torch.float64))
    error = x0 - denoise.exact(ring, SCHEDULE)(xt, torch.full((n,), t))
    for direction in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, -1.0])):
        excess = ((error - shift * direction) ** 2).sum(1) - (error**2).sum(1)
        assert abs(excess.mean().item() - shift**2) < 4 * excess.std().item() / n**0.5


@pytest.mark.parametrize("schedule", [Flow(), EDM(), VP(), Cosine(), SCHEDULE.continuous()], ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_on_real_times_is_the_exact_denoiser(schedule, prediction, generator):
    """The network sees only its input and the clock; for F it must undo the scaling of the input itself."""
    ring, best = ring_of_gaussians(), denoise.exact(ring_of_gaussians(), schedule)
    t = schedule.T * torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64)
    xt = schedule.at(t).b[:, None] * torch.randn(3, 2, generator=generator, dtype=torch.float64)

    def network(x: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        time = torch.exp(4 * clock) if isinstance(schedule, EDM) else clock * schedule.T / schedule.clock(schedule.T)
        _, a, b = schedule.at(time).like(x)
        x = x * ((a * schedule.sigma_data) ** 2 + b**2).sqrt() if prediction == "F" else x
        return predictions.from_x0(prediction, ring.posterior_mean(x, a, b), schedule, x, time)

    found = denoise.from_network(network, schedule, prediction)(xt, t)
    # In and out through a division by b and by a: a few hundred roundings.
    torch.testing.assert_close(found, best(xt, t), rtol=1e-9, atol=1e-9)


def test_the_variance_of_a_network_with_two_heads_is_handed_on_or_left_aside():
    x, t = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 6])

    def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([2 * xt, torch.full_like(xt, 0.25)], 1)

    found = denoise.from_network(network, SCHEDULE, "x0", x0_max=1.0, learned_variance=True)(x, t)
    assert torch.equal(found.x0_hat, (2 * x).clamp(-1, 1))
    assert torch.equal(found.v, torch.full_like(x, 0.25))
    assert torch.equal(denoise.from_network(network, SCHEDULE, "x0", x0_max=1.0)(x, t), found.x0_hat)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 6, 1), (2,)])
def test_a_network_without_a_variance_is_refused(shape):
    denoiser = denoise.from_network(lambda xt, t: torch.zeros(shape), SCHEDULE, "v", learned_variance=True)
    with pytest.raises(ValueError, match=r"must return the prediction and v, \(2, 6, 4\), got \(2"):
        denoiser(torch.zeros(2, 3, 4), torch.tensor([5, 6]))


@pytest.mark.parametrize("shape", [(2, 6, 1), (2,), (2, 9, 4)])
def test_a_network_of_another_shape_is_refused(shape):
    """Twice the channels is a learned variance, and nothing else is: it would broadcast in silence."""
    denoiser = denoise.from_network(lambda xt, t: torch.zeros(shape), SCHEDULE, "v")
    with pytest.raises(ValueError, match=r"a prediction must have the shape of x_t, \(2, 3, 4\), got \(2"):
        denoiser(torch.zeros(2, 3, 4), torch.tensor([5, 6]))


@pytest.mark.parametrize("make", [denoise.from_network, partial(denoise.from_network, learned_variance=True)])
def test_a_network_of_diffusers_is_refused_with_what_to_pass(make):
    importlib.import_module("diffusion_book._torchvision")  # diffusers imports torchvision: see there
    UNet2DModel = importlib.import_module("diffusers").UNet2DModel
    network = UNet2DModel(
        8,
        1,
        1,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=["DownBlock2D"],
        up_block_types=["UpBlock2D"],
    )
    xt, t = torch.zeros(2, 1, 8, 8), torch.tensor(5).expand(2)
    message = "the network must return a tensor, got UNet2DOutput; pass lambda x, t: net(x, t).sample"
    with pytest.raises(ValueError, match=re.escape(message)):
        make(network, SCHEDULE, "eps")(xt, t)
    with torch.no_grad():
        x0_hat = denoise.from_network(lambda x, t: network(x, t).sample, SCHEDULE, "x0")(xt, t)
        assert torch.equal(x0_hat, network(xt, 5).sample)


@pytest.mark.parametrize("rule", [lambda d: guidance.rescale(d, d), guidance.threshold])
def test_guidance_of_a_denoiser_that_returns_no_tensor_is_refused(rule):
    message = "the denoiser must return a tensor, got tuple; pass lambda x, t: net(x, t)[0]"
    with pytest.raises(ValueError, match=re.escape(message)):
        rule(lambda xt, t: (xt, xt))(torch.zeros(2, 3), torch.tensor([5, 5]))


def test_conditions_reach_the_network_by_name():
    def network(xt: torch.Tensor, t: torch.Tensor, y: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return context.sum(1) + y[:, None]

    x, t, y, context = torch.zeros(2, 3), torch.tensor([5, 6]), torch.tensor([1, 2]), torch.ones(2, 4, 3)
    denoiser = denoise.from_network(network, SCHEDULE, "x0", {"context": context, "y": y})
    assert denoiser(x, t).tolist() == [[5] * 3, [6] * 3]


@pytest.mark.parametrize("x0_max", [None, 0.5])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [schedules.cosine(50), schedules.Flow(), schedules.EDM()], ids=repr)
def test_one_time_for_the_whole_batch_is_a_batch_of_equal_times(schedule, prediction, x0_max):
    """Samplers pass one number expanded, for which the weights are looked up; the general way must say the same."""
    xt = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoiser = denoise.from_network(lambda x, t: x.tanh(), schedule, prediction, x0_max=x0_max)
    one = torch.tensor(7 if isinstance(schedule, schedules.Discrete) else 0.7)
    found = denoiser(xt, one.expand(4))
    # Two ways to add two products: a few roundings of terms that are at most 1/b times the result.
    torch.testing.assert_close(found, denoiser(xt, one.repeat(4)), rtol=1e-12, atol=1e-12)
    assert torch.equal(denoiser(xt, one.expand(4)), found)  # the second time from memory


def test_one_time_for_the_whole_batch_is_checked_like_any_other():
    xt = torch.zeros(4, 3)
    denoiser = denoise.from_network(lambda x, t: x, schedules.zero_terminal_snr(schedules.linear(10)), "eps")
    for t, words in [(10, "cannot be read off eps where a"), (11, "t must lie in"), (0, "t must lie in 1 … 10")]:
        with pytest.raises(ValueError, match=words):
            denoiser(xt, torch.tensor(t).expand(4))
    narrow = denoise.from_network(lambda x, t: x[:, :1], schedules.linear(10), "v")
    with pytest.raises(ValueError, match=r"shape of x_t, \(4, 3\), got \(4, 1\)"):
        narrow(xt, torch.tensor(5).expand(4))


def test_a_network_can_be_differentiated_where_x_t_asks_for_it():
    """As the likelihood does; a sampler's x_t does not ask, and then no graph is kept."""
    schedule, layer = schedules.VP(), torch.nn.Linear(3, 3).double()
    denoiser = denoise.from_network(lambda x, t: layer(x), schedule, "v")
    xt, t = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
    assert not denoiser(xt, t.expand(4)).requires_grad
    assert torch.autograd.gradcheck(lambda x: denoiser(x, t.expand(4)), xt.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda x: denoiser(x, t.repeat(4)), xt.clone().requires_grad_())
    with torch.no_grad():
        assert not denoiser(xt.clone().requires_grad_(), t.expand(4)).requires_grad


def test_the_likelihood_of_a_network_is_that_of_the_denoiser_that_it_is():
    ring, schedule = ring_of_gaussians(), schedules.VP()
    exact = denoise.exact(ring, schedule)

    def network(xt, clock):  # perfect, and told the time as networks are
        t = clock.double() / 1000
        return predictions.from_x0("v", exact(xt, t), schedule, xt, t)

    x0 = ring.sample(5, torch.Generator().manual_seed(1))
    found = samplers.log_likelihood(denoise.from_network(network, schedule, "v"), schedule, x0)
    torch.testing.assert_close(found, samplers.log_likelihood(exact, schedule, x0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("x0_max", [0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_none_is_refused(x0_max):
    with pytest.raises(ValueError, match="x0_max must be positive"):
        denoise.from_network(lambda xt, t: xt, schedules.linear(), "eps", x0_max=x0_max)


def test_a_network_is_told_the_time_and_its_conditions_by_name():
    seen = {}

    def network(xt: torch.Tensor, t: torch.Tensor, **conditions: torch.Tensor) -> torch.Tensor:
        seen.update(conditions, xt=xt, t=t)
        return xt

    x, y = torch.ones(2, 3), torch.tensor([4, 5])
    denoise.run_network(network, "v", Flow(), x, torch.tensor([0.25, 1.0]), {"y": y})
    assert seen["t"].tolist() == [250, 1000]
    assert seen["t"].dtype == torch.float32  # a float64 time would turn a network's activations into float64
    assert set(seen) == {"xt", "t", "y"}
    assert seen["xt"] is x
    denoise.run_network(network, "v", Flow(), x.double(), torch.tensor([0.1], dtype=torch.float64))
    assert seen["t"].item() == pytest.approx(100, rel=1e-15)
    denoise.run_network(network, "v", Flow(), x.bfloat16(), torch.tensor([0.1234567], dtype=torch.float64))
    assert seen["t"].item() == pytest.approx(
        123.4567, rel=torch.finfo(torch.float32).eps
    )  # in bfloat16 it would be 123
    denoise.run_network(network, "v", schedules.linear(10), x, torch.tensor([3, 10]))
    assert seen["t"].tolist() == [3, 10]
    assert seen["t"].dtype == torch.int64


@pytest.mark.parametrize("schedule", [EDM(sigma_data=0.5), schedules.linear(50), Flow()], ids=repr)
def test_a_network_for_f_sees_inputs_of_variance_one(schedule, generator):
    n, seen = 20_000, []
    for t in times_of(schedule, 3):
        x0 = schedule.sigma_data * normal(generator, n, 1)
        xt = process.add_noise(schedule, x0, t, normal(generator, n, 1))
        denoise.run_network(lambda x, t: seen.append(x) or x, "F", schedule, xt, t)
        # The variance of a sample variance of n normal numbers is 2/n.
        assert seen[-1].var().item() == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
