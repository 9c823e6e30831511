"""The equations of chapter 12, each against a route that does not use it."""

import itertools
import math

import pytest
import torch
from scipy import optimize, stats

from diffusion_book.evaluation import Moments, density_coverage, frechet_distance, kid


def randn(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def covariance(d: int, generator: torch.Generator) -> torch.Tensor:
    factor = randn(d, d, generator=generator)
    return factor @ factor.T + 0.1 * torch.eye(d, dtype=torch.float64)


def frechet(m1, m2, S1, S2):
    """The library's, of two sets of a thousand with these moments."""
    return frechet_distance(*(Moments(1000, m, 999 * S, "any") for m, S in ((m1, S1), (m2, S2))))


@pytest.mark.equation("eq-evaluation-best-of")
@pytest.mark.parametrize(("q", "k"), [(0.5, 3), (0.9, 2), (0.2, 4)])
def test_the_best_of_k_by_listing_every_outcome(q, k):
    good = sum(
        math.prod(q if fine else 1 - q for fine in outcome)
        for outcome in itertools.product([True, False], repeat=k)
        if any(outcome)
    )
    assert good == pytest.approx(1 - (1 - q) ** k, rel=1e-12)


@pytest.mark.equation("eq-evaluation-rule-of-three")
@pytest.mark.parametrize("n", [1, 7, 64, 3000])
def test_the_rule_of_three_is_the_exact_binomial_bound(n):
    p = 1 - 0.05 ** (1 / n)
    assert p == pytest.approx(stats.beta.ppf(0.95, 1, n), rel=1e-9)  # Clopper and Pearson's bound at none seen
    assert p < -math.log(0.05) / n < 3 / n


@pytest.mark.equation("eq-evaluation-frechet", by="evaluation.frechet_distance")
def test_no_joint_gaussian_does_better_and_one_does_as_well(generator):
    """The least of E|x − y|² over all cross-covariances C, by a search that knows no matrix root.

    C = L_1 K L_2ᵀ with Cholesky factors and any K of norm at most one is every joint Gaussian there is.
    """
    d = 2
    m1, m2 = randn(d, generator=generator), randn(d, generator=generator)
    S1, S2 = covariance(d, generator), covariance(d, generator)
    L1, L2 = torch.linalg.cholesky(S1), torch.linalg.cholesky(S2)
    fixed = float(((m1 - m2) ** 2).sum() + S1.trace() + S2.trace())

    def cost(entries) -> float:
        K = torch.tensor(entries, dtype=torch.float64).reshape(d, d)
        K = K / max(1.0, float(torch.linalg.matrix_norm(K, 2)))
        return fixed - 2 * float((L1 @ K @ L2.T).trace())

    starts = [randn(d * d, generator=generator).numpy() for _ in range(6)]
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000}
    found = min(optimize.minimize(cost, start, method="Nelder-Mead", options=options).fun for start in starts)
    assert found == pytest.approx(frechet(m1, m2, S1, S2), rel=1e-6)


@pytest.mark.equation("eq-evaluation-frechet", by="evaluation.frechet_distance")
def test_on_the_line_it_is_the_difference_of_means_and_of_deviations():
    one = torch.ones(1, dtype=torch.float64)
    assert frechet(3 * one, one, 4 * torch.eye(1).double(), 0.25 * torch.eye(1).double()) == pytest.approx(
        2.0**2 + (2 - 0.5) ** 2
    )


@pytest.mark.equation("eq-evaluation-mean-bias")
def test_the_bias_of_the_distance_of_means(generator):
    """40,000 pairs of samples; the tolerance is four standard errors of their mean."""
    N, M, repeats = 5, 8, 40_000
    scale = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    m = torch.tensor([0.3, 0.0, -0.2], dtype=torch.float64)
    x = m + scale * randn(repeats, N, 3, generator=generator)
    y = 2 * randn(repeats, M, 3, generator=generator)
    distances = ((x.mean(1) - y.mean(1)) ** 2).sum(1)
    expected = (m**2).sum() + (scale**2).sum() / N + 12 / M
    error = 4 * float(distances.std()) / repeats**0.5
    assert float(distances.mean()) == pytest.approx(float(expected), abs=error)
    assert error < 0.1 * float(12 / M)  # so that a wrong term would be seen


@pytest.mark.equation("eq-evaluation-kid", by="evaluation.kid")
def test_the_estimate_from_pairs_is_right_on_average():
    """Four points each, from laws on two values: every outcome is listed, so the mean of the library's is exact."""
    P, Q = {-1.0: 0.3, 1.0: 0.7}, {0.0: 0.5, 2.0: 0.5}

    def k(x, y):
        return (x * y + 1) ** 3

    def mean(first, second):
        return sum(p * q * k(x, y) for x, p in first.items() for y, q in second.items())

    truth = mean(P, P) + mean(Q, Q) - 2 * mean(P, Q)
    average = 0.0
    for drawn in itertools.product(*[P] * 4, *[Q] * 4):
        chance = math.prod(P[x] for x in drawn[:4]) * math.prod(Q[y] for y in drawn[4:])
        x, y = torch.tensor(drawn, dtype=torch.float64).reshape(2, 4, 1)
        average += chance * kid(x, y, torch.Generator(), groups=2).value
    assert average == pytest.approx(truth, rel=1e-12)


@pytest.mark.equation("eq-evaluation-coverage", by="evaluation.density_coverage")
@pytest.mark.parametrize(("N", "M", "k", "d"), [(6, 6, 2, 1), (8, 5, 3, 4), (12, 12, 5, 2)])
def test_coverage_of_equal_distributions_whatever_the_dimension(N, M, k, d, generator):
    """20,000 draws of both clouds; the tolerance is four standard errors, and coverages of points are dependent."""
    repeats = 20_000
    x, y = randn(repeats, N, d, generator=generator), randn(repeats, M, d, generator=generator)
    reach = torch.cdist(x, x).sort(dim=2).values[:, :, k]
    covered = (torch.cdist(x, y).amin(2) <= reach).double().mean(1)
    for one in range(20):
        assert density_coverage(y[one], x[one], k).coverage == pytest.approx(float(covered[one]))
    expected = 1 - math.comb(N - 1, k) / math.comb(N + M - 1, k)
    assert float(covered.mean()) == pytest.approx(expected, abs=4 * float(covered.std()) / repeats**0.5)


@pytest.mark.equation("eq-evaluation-coverage", by="evaluation.density_coverage")
def test_coverage_approaches_one_minus_a_power_of_two():
    for k in (1, 3, 5):
        exact = 1 - math.comb(9999, k) / math.comb(19999, k)
        assert exact == pytest.approx(1 - 2.0**-k, abs=2e-4)


@pytest.mark.equation("eq-evaluation-dequantise", by="evaluation.bits_by_ode")
def test_filling_the_gaps_never_promises_too_much():
    """One pixel: the probability of its cell from the normal law's logarithmic tails, the bound by quadrature."""
    delta = 2 / 255
    cell = torch.linspace(-delta / 2, delta / 2, 20_001, dtype=torch.float64)
    middle = 0.5 * (cell[1:] + cell[:-1])
    gaps = []
    for width in (0.001, 0.01, 0.3):
        normal = torch.distributions.Normal(torch.tensor(0.05, dtype=torch.float64), width)
        for value in (0.05, 0.048, 0.03):  # none above the mean, so the upper edge has the larger tail
            near, far = (stats.norm.logcdf((value - 0.05 + sign * delta / 2) / width) for sign in (1, -1))
            log_probability = near + math.log1p(-math.exp(far - near))
            bound = float(normal.log_prob(value + middle).mean()) + math.log(delta)
            gaps.append((log_probability - bound) / math.log(2))
    assert min(gaps) > -1e-9
    assert max(gaps) > 5  # a density that varies within a cell pays for it
    # Equality where the density is constant over the cell.
    assert math.log2(0.5) + math.log2(delta) == pytest.approx(math.log2(0.5 * delta))


@pytest.mark.equation("eq-evaluation-bits", by="evaluation.bits_by_ode")
def test_the_uniform_density_costs_eight_bits():
    """On the 256 cells of width 2/255 its density is 255/512 a pixel, and a uniform choice of 256 values is 8 bits."""
    D, cell = 10, 2 / 255
    log2_density = -D * math.log2(256 * cell)
    assert -log2_density / D + math.log2(255 / 2) == pytest.approx(8.0)
    log2_probability = log2_density + D * math.log2(cell)
    assert -log2_probability / D == pytest.approx(8.0)


@pytest.mark.equation("eq-evaluation-mixture")
def test_a_mixture_costs_at_most_the_share_of_its_good_part(generator):
    D = 50
    x = randn(1000, D, generator=generator)
    p = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    for shift in (0.1, 1.0, 8.0):
        r = torch.distributions.Normal(shift, 1.0).log_prob(x).sum(1)
        q = torch.logsumexp(torch.stack([p + math.log(0.01), r + math.log(0.99)]), 0)
        excess = (p - q) / math.log(2) / D
        assert float(excess.max()) <= math.log2(100) / D + 1e-12
    assert float(excess.mean()) > 0.99 * math.log2(100) / D  # and where r is rubbish, it is nearly that
