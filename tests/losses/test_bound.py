"""The variational bound, its last term and the loss of a learned variance, against closed forms."""

import math
import re

import mpmath
import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from _support.gaussians import gaussian
from diffusion_book import losses, predictions, process, samplers, schedules
from diffusion_book.data import ring_of_gaussians
from diffusion_book.denoise import Estimate, exact, from_network
from diffusion_book.schedules import Discrete, Flow

LINEAR = schedules.linear()

LINEAR_10 = schedules.linear(10, 0.01, 0.4)

ZERO_SNR = schedules.zero_terminal_snr(schedules.linear(50))


def expected_bound(schedule: Discrete, std: float) -> tuple[float, torch.Tensor, float]:
    """The mean of each term for x0 ~ N(0, s²) in one dimension and the exact denoiser, in closed form."""
    alpha_bar = schedule.alpha_bar[1:]
    S = alpha_bar / (1 - alpha_bar)
    error = std**2 / (1 + std**2 * S)  # the variance of x0 given x_t
    prior = 0.5 * (alpha_bar[-1] * (std**2 - 1) - torch.log1p(-alpha_bar[-1])).item()
    last = 0.5 * (error[0] / (1 - alpha_bar[0]) + (2 * math.pi * (1 - alpha_bar[0])).log()).item()
    return prior, 0.5 * (S[:-1] - S[1:]) * error[1:], last


@pytest.mark.parametrize("std", [0.5, 1.5])
def test_every_term_of_the_bound_for_a_gaussian(std, generator):
    schedule, data, n = schedules.cosine(30), gaussian(std, dim=1), 20_000
    x0 = data.sample(n, generator)
    found = losses.vlb(exact(data, schedule), schedule, x0, generator, levels=None)
    prior, steps, last = expected_bound(schedule, std)
    assert found.steps.shape == (n, 29)

    def error(values: torch.Tensor) -> torch.Tensor:
        return 4.5 * values.std(0) / n**0.5  # 29 means: one in five thousand of the seeds would fall outside

    assert abs(found.prior.mean() - prior) <= error(found.prior)
    assert bool(((found.steps.mean(0) - steps).abs() <= error(found.steps)).all())
    assert abs(found.reconstruction.mean() - last) <= error(found.reconstruction)
    total = found.prior + found.steps.sum(1) + found.reconstruction
    torch.testing.assert_close(found.total(), total)
    torch.testing.assert_close(found.bits_per_dim(2), total / (2 * math.log(2)))


def even_in_log_snr(T: int, first: float = 10.0, last: float = -10.0) -> Discrete:
    alpha_bar = torch.cat([torch.ones(1), torch.linspace(first, last, T).sigmoid()]).double()
    return Discrete(1 - alpha_bar[1:] / alpha_bar[:-1])


def test_more_steps_tighten_the_bound_towards_the_entropy(generator):
    """−ELBO is above the entropy, and what the steps add to it falls like 1/T (Kingma et al. 2021, section 4.1)."""
    std, gaps = 0.5, []
    entropy = 0.5 * math.log(2 * math.pi * math.e * std**2)
    data = gaussian(std, dim=1)
    for T in (25, 100, 400):
        schedule = even_in_log_snr(T)
        prior, steps, last = expected_bound(schedule, std)
        total, n = prior + steps.sum().item() + last, 2000
        found = losses.vlb(exact(data, schedule), schedule, data.sample(n, generator), generator, None).total()
        assert found.mean().item() == pytest.approx(total, abs=4 * found.std().item() / n**0.5)
        assert total > entropy
        # With infinitely many steps they would be the information I = ½ log(1 + s² SNR) that is lost on the way.
        I_1, I_T = (0.5 * math.log1p(std**2 * math.exp(schedule.at(t).log_snr)) for t in (1, T))
        gaps.append(steps.sum().item() - (I_1 - I_T))
    # Four times the steps, a quarter of the gap; the next order is of the size of a step in λ, 20/T.
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=20 / 25)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=20 / 100)
    assert 0 < gaps[2] < 0.1


def test_the_bound_of_a_mixture_is_above_its_negative_log_likelihood(generator):
    ring, n, over = ring_of_gaussians(), 2000, []
    x0 = ring.sample(n, generator)
    for T in (50, 200):
        schedule = even_in_log_snr(T)
        found = losses.vlb(exact(ring, schedule), schedule, x0, generator, levels=None).total() + ring.log_prob(x0)
        over.append((found.mean().item(), found.std().item() / n**0.5))
        assert over[-1][0] > 4 * over[-1][1]
    assert over[1][0] < over[0][0] / 2
    # A denoiser that is off by δ pays ½ (SNR_1 − SNR_T) δ² for each of two dimensions, on average, whatever the data.
    best, shift = exact(ring, schedule), 0.05
    good, poor = (
        losses.vlb(lambda x, t, d=d: best(x, t) + d, schedule, x0, torch.Generator().manual_seed(1), None).steps.sum(1)
        for d in (0.0, shift)
    )
    expected = (schedule.at(1).log_snr.exp() - schedule.at(200).log_snr.exp()).item() * shift**2
    assert (poor - good).mean().item() == pytest.approx(expected, abs=4 * (poor - good).std().item() / n**0.5)


def test_the_steps_of_the_bound_are_kl_divergences(generator):
    """Of torch.distributions, for a poor denoiser and the same noise."""
    schedule, x0 = schedules.linear(20, 0.01, 0.3), torch.rand(3, 2, 2, generator=generator).double() * 2 - 1

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.3 * xt - 0.01 * t[:, None, None]

    state = generator.get_state()
    found = losses.vlb(denoiser, schedule, x0, generator, levels=None)
    generator.set_state(state)
    for t in range(1, 21):
        xt = process.add_noise(schedule, x0, t, samplers.randn_like(x0, generator))
        x0_hat = denoiser(xt, torch.full((3,), t))
        if t == 1:
            last = -Normal(x0_hat, schedule.beta[1].sqrt()).log_prob(x0).sum((1, 2))
            torch.testing.assert_close(found.reconstruction, last, rtol=1e-12, atol=0)
        else:
            q, p = (process.posterior(schedule, xt, x, t) for x in (x0, x0_hat))
            expected = kl_divergence(Normal(q.mean, q.std), Normal(p.mean, p.std)).sum((1, 2))
            torch.testing.assert_close(found.steps[:, t - 2], expected, rtol=1e-9, atol=0)
    end = Normal(schedule.at(20).a * x0, schedule.at(20).b * torch.ones_like(x0))
    expected = kl_divergence(end, Normal(torch.zeros_like(x0), 1.0)).sum((1, 2))
    torch.testing.assert_close(found.prior, expected, rtol=1e-9, atol=0)


def test_the_bound_under_zero_terminal_snr_is_finite(generator):
    data = gaussian(0.3, dim=2)
    found = losses.vlb(exact(data, ZERO_SNR), ZERO_SNR, data.sample(4, generator), generator, levels=None)
    assert found.prior.abs().max() == 0  # x_T is the prior's own noise
    assert bool(torch.isfinite(found.total()).all())


def test_an_example_s_bound_does_not_depend_on_its_batch():
    x0 = torch.tensor([[0.5, -1.0], [1.0, 0.0]])
    bound = [
        losses.vlb(lambda x, t: 0 * x, LINEAR_10, x, samplers.seeded(s), 3) for x, s in ((x0, [4, 5]), (x0[1:], [5]))
    ]
    assert torch.equal(bound[0].total()[1:], bound[1].total())


def probability(x: float, mean: float, std: float, levels: int) -> mpmath.mpf:
    """−log of the mass of N(mean, std²) that belongs to level x, with 60 digits."""
    with mpmath.workdps(60):
        half = mpmath.mpf(1) / (levels - 1)
        low = -mpmath.inf if x <= -1 else (mpmath.mpf(x) - half - mean) / std
        high = mpmath.inf if x >= 1 else (mpmath.mpf(x) + half - mean) / std
        if low > 0:
            low, high = -high, -low  # the small tail, so that mpmath's digits last
        return -mpmath.log((mpmath.erfc(-high / mpmath.sqrt(2)) - mpmath.erfc(-low / mpmath.sqrt(2))) / 2)


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.01), (0.3, 0.2), (-1.5, 0.5), (0.99, 3.0), (40.0, 1.0)])
def test_the_probabilities_of_all_levels_sum_to_one(levels, mean, std):
    x0 = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    nats = losses.reconstruction(x0, torch.full_like(x0, mean), torch.full_like(x0, std), levels)
    assert torch.exp(-nats).sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("x", [-1.0, -127 / 255, 1 / 255, 1.0])
@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 0.01), (0.004, 0.05), (-1.2, 0.3), (1.0, 1e-4), (-30.0, 0.2), (0.1, 20.0)]
)
def test_reconstruction_is_that_of_sixty_digits(x, mean, std, levels):
    """Also where it is e^−5e7: nothing is lost to 1 − 1, and no clamp stands in for a probability."""
    if levels == 2 and abs(x) < 1:
        x = math.copysign(1, x)
    x0 = torch.tensor([[x]], dtype=torch.float64)
    found = losses.reconstruction(x0, torch.full_like(x0, mean), torch.full_like(x0, std), levels).item()
    # log Φ is good to some ε of its size; the difference of two of them, d = 2h·|x − μ|/σ² at least, divides by d.
    assert found == pytest.approx(float(probability(x, mean, std, levels)), rel=1e-12, abs=1e-11)


def test_reconstruction_in_float32_and_its_gradients_are_finite(generator):
    levels = torch.linspace(-1, 1, 256)
    x0 = levels[torch.randint(0, 256, (6, 1, 8, 8), generator=generator)]
    x0[0], x0[1] = -1, 1
    for std in (1e-4, 0.01, 1.0):
        for offset in (0.0, 1e-3, 0.5, 10.0):
            mean = (x0 + offset * torch.randn(x0.shape, generator=generator)).requires_grad_()
            scale = torch.full_like(x0, std).requires_grad_()
            nats = losses.reconstruction(x0, mean, scale, 256)
            nats.sum().backward()
            assert nats.dtype == torch.float32
            assert bool(
                torch.isfinite(nats).all() and torch.isfinite(mean.grad).all() and torch.isfinite(scale.grad).all()
            )
            exact = losses.reconstruction(x0.double(), mean.detach().double(), scale.detach().double(), 256)
            torch.testing.assert_close(nats.double(), exact, rtol=1e-4, atol=1e-3)


def test_a_std_beside_which_a_bin_is_nothing_costs_a_finite_price():
    """Both ends of the bin round to one number, and log(1 − 1) would be −∞."""
    x0, std = torch.tensor([[1 / 255]], dtype=torch.float64), torch.tensor(1e20, dtype=torch.float64)
    assert losses.reconstruction(x0, x0, std).item() == pytest.approx(math.log(2) + 16 * math.log(10), rel=1e-6)


def test_the_gradient_of_the_reconstruction_is_right():
    """Against finite differences, on the edges, in the middle of a bin and in the tails."""
    x0 = torch.tensor([[-1.0, 1.0, 1 / 255, 1 / 255, 1 / 255, -1.0, 1.0]], dtype=torch.float64)
    mean = torch.tensor([[-0.99, 0.9, 0.0, 0.05, 0.9, 0.5, 1.3]], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([[0.02, 0.1, 0.01, 0.01, 0.05, 0.1, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: losses.reconstruction(x0, m, s, 256), (mean, std), eps=1e-7, rtol=1e-5)


def test_without_levels_the_reconstruction_is_a_density(generator):
    x0, mean, std = (torch.randn(4, 2, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    std = std.exp()
    expected = -Normal(mean, std).log_prob(x0).sum((1, 2))
    torch.testing.assert_close(losses.reconstruction(x0, mean, std, None), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "levels", "message"),
    [
        (0.0, 1, "levels must be a whole number of at least 2, got 1; None for data without levels"),
        (0.0, 2.5, "levels must be a whole number of at least 2, got 2.5; None for data without levels"),
        (1.5, 256, r"values with levels must lie in \[−1, 1\], got 1.5 … 1.5"),
        (math.nan, 256, r"values with levels must lie in \[−1, 1\], got nan … nan"),
    ],
)
def test_data_that_have_no_levels_are_refused(x, levels, message):
    x0 = torch.tensor([[x]])
    with pytest.raises(ValueError, match=message):
        losses.reconstruction(x0, x0, torch.ones_like(x0), levels)


class TwoHeads(torch.nn.Module):
    """A prediction and v, each with weights of its own."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.randn(2, 1, 1, generator=generator, dtype=torch.float64))
        self.v = torch.nn.Parameter(torch.rand(2, 1, 1, generator=generator, dtype=torch.float64) - 0.5)

    def forward(self, xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.mean * xt, self.v + 0.1 * xt.tanh()], 1)


@pytest.fixture
def images(generator) -> tuple[torch.Tensor, torch.Tensor]:
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    x0 = levels[torch.randint(0, 256, (4, 2, 3, 3), generator=generator)]
    return x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_hybrid_loss_is_the_simple_one_and_a_kl(prediction, images, generator):
    (x0, eps), schedule, network = images, schedules.linear(50), TwoHeads(generator)
    t = torch.tensor([2, 10, 30, 50])
    found = losses.hybrid_loss(network, schedule, x0, t, eps, prediction, vlb_weight=0.01)
    xt = process.add_noise(schedule, x0, t, eps)
    output, v = network(xt, t).chunk(2, dim=1)
    simple = ((output - predictions.target(prediction, schedule, x0, eps, t)) ** 2).mean((1, 2, 3))
    q = process.posterior(schedule, xt, x0, t)
    mean = process.posterior(schedule, xt, predictions.to_x0(prediction, output, schedule, xt, t), t).mean
    beta, small = schedule.beta[t].reshape(4, 1, 1, 1), q.std**2
    variance = torch.exp((v + 1) / 2 * beta.log() + (1 - (v + 1) / 2) * small.log())  # their section 3.1
    kl = kl_divergence(Normal(q.mean, q.std.expand_as(mean)), Normal(mean, variance.sqrt())).mean((1, 2, 3))
    torch.testing.assert_close(found, simple + 0.01 * 50 * kl, rtol=1e-9, atol=0)


def test_the_hybrid_loss_at_one_is_the_reconstruction(images, generator):
    (x0, eps), schedule, network = images, schedules.linear(50), TwoHeads(generator)
    t = torch.ones(4, dtype=torch.long)
    found = losses.hybrid_loss(network, schedule, x0, t, eps, "x0", vlb_weight=1.0)
    xt = process.add_noise(schedule, x0, t, eps)
    output, v = network(xt, t).chunk(2, dim=1)
    simple = ((output - x0) ** 2).mean((1, 2, 3))
    nats = losses.reconstruction(x0, output, process.learned_std(schedule, v, t), 256)
    torch.testing.assert_close(found, simple + 50 * nats / 18, rtol=1e-12, atol=0)


@pytest.mark.parametrize("t", [1, 2, 50])
def test_the_bound_teaches_the_variance_and_leaves_the_mean_alone(t, images, generator):
    (x0, eps), schedule, network = images, schedules.linear(50), TwoHeads(generator)
    t = torch.full((4,), t)

    def gradients(vlb_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        loss = losses.hybrid_loss(network, schedule, x0, t, eps, vlb_weight=vlb_weight).mean()
        return torch.autograd.grad(loss, [network.mean, network.v])

    (mean_without, v_without), (mean_with, v_with) = gradients(0.0), gradients(0.001)
    assert torch.equal(mean_with, mean_without)
    assert bool((v_without == 0).all())
    assert bool((v_with != 0).all() and torch.isfinite(v_with).all())


def test_the_gradient_of_the_hybrid_loss_is_right(images, generator):
    (x0, eps), schedule = images, schedules.cosine(20)
    t = torch.tensor([1, 2, 10, 20])
    v = (torch.rand(x0.shape, generator=generator, dtype=torch.float64) * 2 - 1).requires_grad_()
    xt = process.add_noise(schedule, x0, t, eps)
    guess = 0.9 * predictions.target("v", schedule, x0, eps, t)

    def loss(v: torch.Tensor) -> torch.Tensor:
        return losses.hybrid_loss(lambda x, t: torch.cat([guess, v], 1), schedule, x0, t, eps, "v", vlb_weight=1.0)

    assert xt.shape == v.shape
    assert torch.autograd.gradcheck(loss, (v,), eps=1e-6, rtol=1e-5)


def test_the_bound_of_a_learned_variance_is_what_the_hybrid_loss_trains(images, generator):
    """Term by term, with the same noise, at t = 1 too."""
    (x0, _), schedule, network = images, schedules.linear(20, 0.01, 0.3), TwoHeads(generator)
    state = generator.get_state()
    found = losses.vlb(from_network(network, schedule, "v", learned_variance=True), schedule, x0, generator)
    generator.set_state(state)
    terms = torch.cat([found.reconstruction[:, None], found.steps], 1)
    for t in range(1, 21):
        times, eps = torch.full((4,), t), samplers.randn_like(x0, generator)
        simple, both = (losses.hybrid_loss(network, schedule, x0, times, eps, "v", vlb_weight=w) for w in (0.0, 1.0))
        torch.testing.assert_close(terms[:, t - 1], (both - simple).detach() * 18 / 20, rtol=1e-9, atol=0)


@pytest.mark.parametrize("v", [None, 0.3])
def test_the_terms_of_the_bound_at_times_of_all_kinds_are_those_of_the_whole(v, images, generator):
    """For a denoiser that does not look at x_t, whose terms are then the same whatever the noise, or nearly."""
    x0, schedule = images[0], schedules.linear(5)
    guess = 0.9 * x0

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor | Estimate:
        return guess if v is None else Estimate(guess, torch.full_like(guess, v))

    whole = losses.vlb(denoiser, schedule, x0, generator)
    terms = torch.cat([whole.reconstruction[:, None], whole.steps], 1)
    for t in (torch.tensor([1, 5, 2, 1]), torch.tensor([3, 2, 5, 4]), torch.ones(4, dtype=torch.int64)):
        found = losses.vlb_at(denoiser, schedule, x0, t, generator)
        torch.testing.assert_close(found, terms[torch.arange(4), t - 1])
    with pytest.raises(ValueError, match="t must be a tensor of one time for each of the 4 examples, got 3"):
        losses.vlb_at(denoiser, schedule, x0, 3, generator)


def test_with_the_true_variances_the_bound_of_a_gaussian_is_its_entropy(generator):
    """Each reverse step of Gaussian data is Gaussian: with mean and variance right, nothing but the prior is lost."""
    schedule, std, n = schedules.linear(6, 0.1, 0.6), 0.7, 40_000
    data = gaussian(std, dim=1)
    x0 = data.sample(n, generator)
    beta, alpha_bar = schedule.beta[1:], schedule.alpha_bar
    before, now = (alpha_bar[i] * std**2 + 1 - alpha_bar[i] for i in (slice(0, -1), slice(1, None)))
    variance = before * beta / now  # of x_{t−1} given x_t
    small = beta * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
    small[0] = small[1]
    v = 2 * (variance / small).log() / (beta / small).log() - 1
    best = exact(data, schedule)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> Estimate:
        return Estimate(best(xt, t), v[t - 1][:, None].to(xt))

    found = losses.vlb(denoiser, schedule, x0, generator, levels=None).total()
    end = now[-1].item()
    expected = 0.5 * math.log(2 * math.pi * math.e * std**2) + 0.5 * (end - 1 - math.log(end))
    assert abs(found.mean().item() - expected) < 4 * found.std().item() / n**0.5
    fixed = losses.vlb(best, schedule, x0, generator, levels=None).total()
    assert fixed.mean().item() > expected + 0.05


@pytest.mark.parametrize(("data_std", "v"), [(1e-3, -1.0), (1e3, 1.0)])
def test_the_best_v_is_small_for_a_point_and_large_for_wide_data(data_std, v, generator):
    """The variance of x_{t−1} given x_t is the posterior's for data at a point, and near β_t for wide data."""
    schedule, t, n = schedules.linear(20, 0.01, 0.3), 10, 4000
    x0 = data_std * torch.randn(n, 1, 1, generator=generator, dtype=torch.float64)
    eps = torch.randn(n, 1, 1, generator=generator, dtype=torch.float64)
    _, a, b = schedule.at(t)
    shrink = a * data_std**2 / ((a * data_std) ** 2 + b**2)  # E[x0 | x_t] = shrink x_t
    found = []
    for guess in torch.linspace(-1, 1, 9, dtype=torch.float64):

        def network(x: torch.Tensor, t: torch.Tensor, guess: torch.Tensor = guess) -> torch.Tensor:
            return torch.cat([shrink * x, torch.full_like(x, guess)], 1)

        times = torch.full((n,), t)
        loss = losses.hybrid_loss(network, schedule, x0, times, eps, "x0", vlb_weight=1.0, levels=None)
        found.append(loss.mean().item())
    assert torch.linspace(-1, 1, 9)[int(np.argmin(found))].item() == v


def test_the_hybrid_loss_is_finite_at_every_time_in_float32(generator):
    for schedule in (schedules.linear(), schedules.cosine(), ZERO_SNR):
        T = schedule.T
        x0 = (torch.rand(6, 1, 4, 4, generator=generator) * 2 - 1).sign()
        v = torch.zeros(6, 1, 4, 4, requires_grad=True)
        t, eps = torch.tensor([1, 2, 3, T // 2, T - 1, T]), torch.randn(6, 1, 4, 4, generator=generator)
        loss = losses.hybrid_loss(lambda x, t, v=v: torch.cat([x, v], 1), schedule, x0, t, eps, "v")
        loss.sum().backward()
        assert bool(torch.isfinite(loss).all())
        assert bool(torch.isfinite(v.grad).all())


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 6, 4, 1)])
def test_a_network_without_a_variance_is_refused(shape):
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"for a learned variance the network must return \(2, 6, 4, 4\), got"):
        losses.hybrid_loss(lambda x, t: torch.zeros(shape), LINEAR, x, torch.tensor([1, 2]), x)


def test_a_bound_needs_steps():
    x = torch.zeros(2, 3)
    for call in (
        lambda: losses.vlb(lambda xt, t: xt, Flow(), x, torch.Generator()),
        lambda: losses.hybrid_loss(lambda xt, t: torch.cat([xt, xt], 1), Flow(), x, torch.tensor([0.1, 0.2]), x),
    ):
        with pytest.raises(ValueError, match=r"expected a discrete schedule, .* got Flow\(T=1\), which has no steps"):
            call()


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (1, 3, 4, 4), (2, 6, 4, 4)])
def test_a_denoiser_of_another_shape_is_refused_in_the_bound(shape):
    """One channel for three would spread over them, and the bound be a number that means nothing."""
    x0, generator = torch.zeros(2, 3, 4, 4), torch.Generator()
    message = re.escape(f"the denoiser must return the shape of x_t, (2, 3, 4, 4), got {shape}")
    with pytest.raises(ValueError, match=message):
        losses.vlb(lambda xt, t: torch.zeros(shape), LINEAR_10, x0, generator)
    with pytest.raises(ValueError, match=message):
        losses.vlb(lambda xt, t: Estimate(xt, torch.zeros(shape)), LINEAR_10, x0, generator)


@pytest.mark.parametrize(("mean", "std"), [((2, 1), (2, 3)), ((2, 3), (2, 1, 3)), ((2, 3), (4,)), ((3,), ())])
@pytest.mark.parametrize("levels", [256, None])
def test_a_gaussian_of_another_shape_than_the_data_is_refused(levels, mean, std):
    with pytest.raises(ValueError, match=re.escape("mean must have the shape of x0, (2, 3), and std one")):
        losses.reconstruction(torch.zeros(2, 3), torch.zeros(mean), torch.ones(std), levels)


@pytest.mark.parametrize("std", [(), (1,), (3,), (2, 1), (1, 3)])
@pytest.mark.parametrize("levels", [256, None])
def test_one_std_serves_many_pixels(levels, std, generator):
    x0, mean = torch.zeros(2, 3), torch.randn(2, 3, generator=generator)
    std = 0.5 + torch.rand(std, generator=generator)
    expected = losses.reconstruction(x0, mean, std.expand(2, 3), levels)
    assert torch.equal(losses.reconstruction(x0, mean, std, levels), expected)


@pytest.mark.parametrize("dimensions", [0, -3])
def test_bits_of_no_dimension_are_refused(dimensions):
    bound = losses.VLB(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1))
    assert bound.bits_per_dim(1).item() == 0
    with pytest.raises(ValueError, match=rf"dimensions are those of one example, .* at least 1, got {dimensions}"):
        bound.bits_per_dim(dimensions)


@pytest.mark.parametrize("vlb_weight", [-1.0, math.nan, math.inf])
def test_a_bound_of_negative_weight_is_refused(vlb_weight):
    x, t = torch.zeros(2, 3), torch.tensor([1, 2])
    with pytest.raises(
        ValueError, match=f"vlb_weight must be finite and not negative, got {vlb_weight}; 0.001 is usual"
    ):
        losses.hybrid_loss(lambda xt, t: torch.cat([xt, xt], 1), LINEAR, x, t, x, vlb_weight=vlb_weight)


def test_defaults_are_the_published_ones():
    """8-bit pixels."""

    def bound(**options):
        x0 = torch.full((2, 3), 1 / 255)
        return losses.vlb(lambda xt, t: x0, schedules.linear(4), x0, torch.Generator().manual_seed(0), **options)

    assert torch.equal(bound().reconstruction, bound(levels=256).reconstruction)
    assert not torch.equal(bound().reconstruction, bound(levels=257).reconstruction)
    x0, std = torch.tensor([[1 / 255]]), torch.tensor(0.1)
    assert torch.equal(losses.reconstruction(x0, x0, std), losses.reconstruction(x0, x0, std, levels=256))
