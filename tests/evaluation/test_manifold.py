"""Precision, recall, density, coverage: hand-made cases, brute force, expectations in closed form."""

import math

import numpy as np
import pytest
import torch

import diffusion_book._torchvision  # noqa: F401  (torch-fidelity imports torchvision, which may need mending first)
from diffusion_book.evaluation import density_coverage, distances, precision_recall


def manifold(real: torch.Tensor, samples: torch.Tensor, k: int = 3, k_density: int = 5) -> tuple[float, ...]:
    return *precision_recall(samples, real, k), *density_coverage(samples, real, k_density)


def brute_force(real: np.ndarray, samples: np.ndarray, k: int, k_density: int) -> tuple[float, float, float, float]:
    """The definitions, one pair at a time, in whole numbers where the points are."""

    def squared(u, v):
        return ((u - v) ** 2).sum()

    def radius(points, i, count):
        return sorted(squared(points[i], points[j]) for j in range(len(points)) if j != i)[count - 1]

    def inside(points, of, count):
        return [[squared(p, c) <= radius(of, i, count) for i, c in enumerate(of)] for p in points]

    in_real = inside(samples, real, k_density)
    return (
        np.mean([any(row) for row in inside(samples, real, k)]),
        np.mean([any(row) for row in inside(real, samples, k)]),
        np.sum(in_real) / (k_density * len(samples)),
        np.mean([any(row) for row in zip(*in_real)]),
    )


@pytest.mark.parametrize("kind", ["real numbers", "a grid, full of ties", "far from zero", "copies"])
def test_brute_force_agrees(kind, generator, monkeypatch):
    if kind == "a grid, full of ties":
        real, samples = torch.randint(4, (30, 3), generator=generator), torch.randint(5, (26, 3), generator=generator)
    else:
        real, samples = torch.randn(30, 3, generator=generator), 1.3 * torch.randn(26, 3, generator=generator)
    if kind == "far from zero":
        real, samples = real.double() + 1e7, samples.double() + 1e7
    if kind == "copies":
        samples[:9] = real[3:12]
        samples[9:12] = samples[:3]
    expected = brute_force(real.double().numpy(), samples.double().numpy(), 3, 5)
    for block in (2**24, 100, 1):  # also when there are many blocks
        monkeypatch.setattr(distances, "BLOCK", block)
        assert manifold(
            real.float() if real.dtype == torch.int64 else real, samples.to(torch.float64)
        ) == pytest.approx(expected, abs=1e-12)


def test_torch_fidelity_agrees(generator):
    metric_prc = pytest.importorskip("torch_fidelity.metric_prc")
    real, samples = torch.randn(80, 6, generator=generator), 1.2 * torch.randn(80, 6, generator=generator)
    found = precision_recall(samples, real)
    theirs = metric_prc.prc_features_to_metric(samples, real, verbose=False)
    assert found.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert found.recall == pytest.approx(theirs["recall"], abs=1e-6)


def test_by_hand_on_a_line():
    """Real 0, 1, 2, 10 and k = 1: radii 1, 1, 1, 8. A sample at 2.5 lies in the balls of 2 and of 10."""
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    samples = torch.tensor([[2.5], [-3.0], [-3.5], [18.5]])  # radii 5.5, 0.5, 0.5, 16
    found = manifold(real, samples, k=1, k_density=1)
    assert found == pytest.approx((1 / 4, 1.0, 2 / 4, 2 / 4))


def test_what_lies_on_the_edge_of_a_ball_is_in_it(generator):
    """Beyond one of two real images by just their distance: rounding must not put it out, wherever they are."""
    for _ in range(30):
        x, y = torch.randn(2, 8, generator=generator, dtype=torch.float64)
        real, samples = torch.stack([x, y]), torch.stack([2 * y - x, 50 + x])
        assert precision_recall(samples, real, k=1).precision == 0.5
        assert density_coverage(samples, real, k=1) == (0.5, 0.5)


def test_what_each_of_them_sees(generator):
    real = torch.cat([torch.randn(200, 2, generator=generator) - 20, torch.randn(200, 2, generator=generator) + 20])
    alike = torch.cat([torch.randn(200, 2, generator=generator) - 20, torch.randn(200, 2, generator=generator) + 20])
    dropped = torch.randn(400, 2, generator=generator) - 20
    outside = torch.cat([alike[::2], torch.randn(200, 2, generator=generator) + 60])
    precision, recall, density, coverage = manifold(real, alike)
    assert min(precision, recall, density, coverage) > 0.9
    precision, recall, _, coverage = manifold(real, dropped)
    assert precision > 0.9
    assert (recall, coverage) == pytest.approx((0.5, 0.5), abs=0.05)
    precision, recall, density, _ = manifold(real, outside)
    assert recall > 0.9
    assert (precision, density) == pytest.approx((0.5, 0.5), abs=0.1)


def test_where_both_are_alike_density_and_coverage_have_known_means(generator):
    """E[density] = 1, E[coverage] = 1 − (N−1)…(N−k)/((2N−1)…(2N−k)), in any dimension (Naeem et al. 2020).

    A real image is not covered where its k nearest among the N − 1 other real ones and the N samples are all real.
    """
    n, k, draws = 25, 2, 300
    found = []
    for _ in range(draws):
        real, samples = torch.randn(2, n, 4, generator=generator)
        found.append(density_coverage(samples, real, k))
    density, coverage = torch.tensor(found).double().unbind(1)
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    for values, truth in ((density, 1.0), (coverage, expected)):
        assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / math.sqrt(draws)


def test_bad_input_is_told(generator):
    x = torch.randn(5, 2, generator=generator)
    for function in (precision_recall, density_coverage):
        with pytest.raises(ValueError, match="k must lie between 1 and the number of other examples, got 5"):
            function(x, x, k=5)
        with pytest.raises(ValueError, match="k must lie between 1"):
            function(x, x, k=0)
        with pytest.raises(ValueError, match="one length"):
            function(x, x[:, :1])
