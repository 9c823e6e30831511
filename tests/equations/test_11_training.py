"""The equations of chapter 11, each against a route that does not use it."""

import itertools
import math

import pytest
import torch
from torch import nn

from diffusion_book import data, schedules


def randn(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def adam_steps(gradients: list[float], d1: float, d2: float) -> list[float]:
    """The steps of PyTorch's own AdamW at a learning rate of one."""
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = torch.optim.AdamW([w], lr=1.0, betas=(d1, d2), weight_decay=0.0, eps=0.0)
    steps = []
    for g in gradients:
        before = w.item()
        w.grad = torch.full_like(w, g)
        optimiser.step()
        steps.append(before - w.item())
    return steps


@pytest.mark.equation("eq-training-bias")
@pytest.mark.parametrize(("d", "n"), [(0.9, 1), (0.9, 7), (0.99, 40)])
def test_the_weights_of_an_average_that_starts_at_zero(d, n):
    """Fed with ones, the average is the sum of its weights."""
    average = 0.0
    for _ in range(n):
        average = d * average + (1 - d) * 1.0
    assert average == pytest.approx(1 - d**n, rel=1e-12)


@pytest.mark.equation("eq-training-noise-step")
@pytest.mark.parametrize(("d", "n"), [(0.9, 1), (0.9, 3), (0.9, 25), (0.5, 4)])
def test_the_corrected_average_of_noise(d, n):
    """Its variance is the sum of the squares of the weights that it gives to each gradient, found by probing."""
    weights = []
    for k in range(n):
        average = 0.0
        for i in range(n):
            average = d * average + (1 - d) * (i == k)
        weights.append(average)
    variance = sum(w**2 for w in weights) / sum(weights) ** 2
    assert variance == pytest.approx((1 - d) / (1 + d) * (1 + d**n) / (1 - d**n), rel=1e-12)


@pytest.mark.equation("eq-training-overshoot")
@pytest.mark.parametrize(("d1", "d2"), [(0.9, 0.99), (0.9, 0.999)])
def test_without_the_correction_a_step_is_longer(d1, d2, generator):
    gradients = randn(30, generator=generator).tolist()
    corrected = adam_steps(gradients, d1, d2)
    mu = nu = 0.0
    for n, g in enumerate(gradients, start=1):
        mu, nu = d1 * mu + (1 - d1) * g, d2 * nu + (1 - d2) * g * g
        factor = (1 - d1**n) / math.sqrt(1 - d2**n)
        assert mu / math.sqrt(nu) == pytest.approx(factor * corrected[n - 1], rel=1e-9)


@pytest.mark.equation("eq-training-spike")
@pytest.mark.parametrize("K", [0.1, 10.0, 1000.0])
def test_steps_after_an_outlier(K):
    d1, d2 = 0.9, 0.99
    steps = adam_steps([1.0] * 4000 + [K] + [1.0] * 300, d1, d2)[4000:]
    for j, step in enumerate(steps):
        expected = (1 + (1 - d1) * d1**j * (K - 1)) / math.sqrt(1 + (1 - d2) * d2**j * (K**2 - 1))
        assert step == pytest.approx(expected, rel=1e-9)


@pytest.mark.equation("eq-training-longest")
@pytest.mark.parametrize(("d1", "d2"), [(0.9, 0.99), (0.9, 0.999), (0.5, 0.6)])
def test_no_step_is_longer(d1, d2, generator):
    """PyTorch's AdamW on gradients of wild sizes and either sign; those that grow by d2/d1 nearly reach the bound."""
    bound = (1 - d1) / math.sqrt((1 - d2) * (1 - d1**2 / d2))
    for size in (0.0, 1.0, 5.0):
        gradients = randn(300, generator=generator) * torch.exp(size * randn(300, generator=generator))
        assert max(map(abs, adam_steps(gradients.tolist(), d1, d2))) < bound
    worst = adam_steps([(d2 / d1) ** n for n in range(1500)], d1, d2)
    assert 0.8 * bound < max(worst) < bound * (1 + 1e-9)
    n = 10_000  # the same with averages that have forgotten their start
    mu = (1 - d1) * sum((d1**2 / d2) ** k for k in range(n))
    nu = (1 - d2) * sum((d1**2 / d2) ** k for k in range(n))
    assert mu / math.sqrt(nu) == pytest.approx(bound, rel=1e-9)


@pytest.mark.equation("eq-training-bf16")
def test_small_updates_are_lost_for_every_bfloat16():
    """All normal numbers between 2^-3 and 2^4, both signs, and updates to just below the bound; above it some count."""
    bits = torch.arange(0x3E00, 0x4180, dtype=torch.int32).to(torch.int16)
    w = bits.view(torch.bfloat16).double()
    w = torch.cat([w, -w])
    assert w.abs().min() == 2**-3
    assert len(w.unique()) == len(w) == 2 * 7 * 128
    for share in (-0.999, -0.5, 0.5, 0.999):
        assert torch.equal((w + share * 2**-9 * w.abs()).bfloat16().double(), w)
    moved = (w - 1.001 * 2**-9 * w).bfloat16().double() != w
    assert torch.equal(moved, w.abs().log2().frac() == 0)  # towards zero from a power of two, the gap is the narrow one


@pytest.mark.equation("eq-training-strata")
def test_the_scatter_of_a_batch_by_listing_every_one():
    """Three times, two outcomes each; all batches of two are listed, so the variance is exact."""
    outcomes = {1: [0.0, 1.0], 2: [2.0, 2.5], 3: [5.0, 9.0]}
    examples = [loss for pair in outcomes.values() for loss in pair]
    means = torch.tensor([(a + b) / 2 for a, b in itertools.product(examples, repeat=2)], dtype=torch.float64)
    table = torch.tensor(list(outcomes.values()), dtype=torch.float64)
    within, between = table.var(1, correction=0).mean(), table.mean(1).var(correction=0)
    assert float(means.var(correction=0)) == pytest.approx(float(within + between) / 2, rel=1e-12)


@pytest.mark.equation("eq-training-paired")
def test_the_error_of_a_paired_difference(generator):
    """40,000 repetitions; four standard errors of a variance."""
    N, s1, s2, rho, repeats = 5, 1.5, 0.7, 0.9, 40_000
    common = randn(2, repeats, N, generator=generator)
    first = s1 * common[0]
    second = s2 * (rho * common[0] + math.sqrt(1 - rho**2) * common[1])
    difference = (first - second).mean(1)
    expected = (s1**2 + s2**2 - 2 * rho * s1 * s2) / N
    assert float(difference.var()) == pytest.approx(expected, rel=4 * math.sqrt(2 / repeats))


@pytest.mark.equation("eq-training-memoriser")
def test_no_function_of_the_noisy_point_beats_the_memoriser():
    """In one dimension the loss of any guess is an integral; minimise it point by point on a grid."""
    x = torch.tensor([-1.2, 0.1, 0.4, 2.0], dtype=torch.float64)
    a, b = 0.8, 0.6
    xt = torch.linspace(-6, 7, 4001, dtype=torch.float64)
    density = torch.exp(-((xt[:, None] - a * x) ** 2) / (2 * b**2)) / (len(x) * b * math.sqrt(2 * math.pi))
    guesses = torch.linspace(-2, 3, 2001, dtype=torch.float64)
    v = (a * xt[:, None] - x) / b  # what the network should have said, for each image
    cost = torch.stack([(density * ((a * xt - g)[:, None] / b - v) ** 2).sum(1) for g in guesses])
    searched, at = cost.min(0)

    w = (-((xt[:, None] - a * x) ** 2) / (2 * b**2)).softmax(1)
    best = w @ x
    common = density.sum(1) > 1e-6  # elsewhere a guess is as good as any other
    assert torch.allclose(guesses[at][common], best[common], atol=0.003)  # the grid's spacing
    loss = (density * (x - best[:, None]) ** 2).sum(1) / b**2
    assert float(loss.sum()) == pytest.approx(float(searched.sum()), rel=1e-4)


@pytest.mark.equation("eq-training-fresh-noise")
def test_the_loss_of_a_program_that_draws_its_noise_twice(generator):
    """Monte Carlo with the exact posterior mean of a mixture; and a regression finds nothing better."""
    ring, schedule = data.ring_of_gaussians(4), schedules.cosine()
    for t in (60, 400, 700):
        _, a, b = schedule.at(t)
        x0 = ring.sample(100_000, generator)
        eps, again = randn(2, *x0.shape, generator=generator)
        xt = a * x0 + b * eps
        mean = ring.posterior_mean(xt, a, b)
        e_t = ((x0 - mean) ** 2).mean()
        wrong = ((a * again - b * x0 + b * mean) ** 2).mean(1)
        expected = float(a**2 + b**2 * e_t)
        assert float(wrong.mean()) == pytest.approx(expected, abs=4 * float(wrong.std()) / 100_000**0.5 + 1e-3)
        right = ((a * eps - b * x0 - (a * xt - mean) / b) ** 2).mean()
        assert float(right) == pytest.approx(float(e_t / b**2), rel=1e-9)
        features = torch.cat([xt, mean, torch.sin(2 * xt), xt**3, torch.ones_like(xt[:, :1])], dim=1)
        target = a * again - b * x0 + b * mean
        fitted = features @ torch.linalg.lstsq(features, target).solution
        assert float((target**2).mean() - ((target - fitted) ** 2).mean()) < 1e-3


@pytest.mark.equation("eq-training-birthday")
def test_pairs_that_share_a_seed(generator):
    """The same count with seeds of 8 bits, by listing all pairs of 40 draws, 5000 times."""
    n, kinds, repeats = 40, 2**8, 5000
    seeds = torch.randint(kinds, (repeats, n), generator=generator)
    pairs = ((seeds[:, :, None] == seeds[:, None, :]).sum((1, 2)) - n) / 2
    expected = n * (n - 1) / 2**9
    assert float(pairs.mean()) == pytest.approx(expected, abs=4 * float(pairs.std()) / repeats**0.5)


@pytest.mark.equation("eq-training-parallel", by="training.Trainer")
@pytest.mark.parametrize("sizes", [[4, 4, 4], [7, 4, 1]])
def test_parts_make_up_the_gradient_of_the_batch(sizes, generator):
    w = randn(3, generator=generator).requires_grad_()
    x, y = randn(12, 3, generator=generator), randn(12, generator=generator)

    def gradient(x, y):
        return torch.autograd.grad(((torch.tanh(x @ w) - y) ** 2).mean(), w)[0]

    whole = gradient(x, y)
    parts = torch.stack([gradient(*part) for part in zip(x.split(sizes), y.split(sizes))])
    weighted = (torch.tensor(sizes, dtype=torch.float64)[:, None] / 12 * parts).sum(0)
    assert torch.allclose(weighted, whole, rtol=1e-12)
    assert torch.allclose(parts.mean(0), whole, rtol=1e-12) == (len(set(sizes)) == 1)


@pytest.mark.equation("eq-training-ring")
@pytest.mark.parametrize("K", [2, 3, 8])
def test_what_each_process_of_a_ring_sends(K):
    """Follow who knows what: a chunk is a set of contributions; count messages until all know all."""
    known = [[{k} for _ in range(K)] for k in range(K)]
    sent = [0] * K
    for step in range(2 * (K - 1)):
        messages = [known[k][(k - step) % K] for k in range(K)]
        for k, message in enumerate(messages):
            to, chunk = (k + 1) % K, (k - step) % K
            if step < K - 1:
                assert not known[to][chunk] & message  # nothing is counted twice
                known[to][chunk] = known[to][chunk] | message
            else:
                known[to][chunk] = message
            sent[k] += 1
    assert all(chunk == set(range(K)) for process in known for chunk in process)
    N = 24 * K  # so that a chunk is 24 numbers
    assert [24 * messages for messages in sent] == pytest.approx([2 * (K - 1) / K * N] * K)


@pytest.mark.equation("eq-training-shared")
@pytest.mark.parametrize(("K", "rho"), [(2, 0.5), (8, 0.2), (5, 1.0), (4, 0.0)])
def test_the_variance_of_an_average_of_relatives(K, rho):
    s2 = 1.7
    covariance = s2 * (rho + (1 - rho) * torch.eye(K, dtype=torch.float64))
    weights = torch.full((K,), 1 / K, dtype=torch.float64)
    assert float(weights @ covariance @ weights) == pytest.approx(s2 / K * (1 + (K - 1) * rho), rel=1e-12)


@pytest.mark.equation("eq-training-noise-scale")
def test_the_length_of_a_noisy_gradient(generator):
    """Means of B draws from a skewed law with known moments; four standard errors of 40,000 lengths."""
    repeats, B = 40_000, 3
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    shift = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    uniform = torch.rand(repeats, B, 3, generator=generator, dtype=torch.float64)
    g = (shift + scale * (-torch.log1p(-uniform) - 1)).mean(1)  # exponential, of mean 0 and variance 1
    lengths = (g**2).sum(1)
    expected = float((shift**2).sum() + (scale**2).sum() / B)
    assert float(lengths.mean()) == pytest.approx(expected, abs=4 * float(lengths.std()) / repeats**0.5)


@pytest.mark.equation("eq-training-speed")
@pytest.mark.parametrize("B", [1, 10, 1000])
def test_the_gain_of_the_best_step_on_a_bowl(B):
    """Two equally likely gradients, G ± n/√B: the mean gain of a step is exact, and its best length is searched."""
    h, G = 3.0, torch.tensor([0.6, -0.8, 0.3], dtype=torch.float64)
    noise = torch.tensor([2.0, 1.0, -4.0], dtype=torch.float64)

    def best_gain(scale):
        drawn = [G + scale * noise, G - scale * noise]
        r = torch.linspace(0, 1 / h, 200_001, dtype=torch.float64)
        start = G / h  # a bowl ½ h |w|² whose gradient here is G
        after = [0.5 * h * ((start - r[:, None] * g) ** 2).sum(1) for g in drawn]
        return float((0.5 * h * (start**2).sum() - sum(after) / 2).max())

    ratio = best_gain(B**-0.5) / best_gain(0.0)
    scale = float((noise**2).sum() / (G**2).sum())
    assert ratio == pytest.approx(1 / (1 + scale / B), rel=1e-4)
