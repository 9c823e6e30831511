"""The kernel distance against a double loop, a reference package, and the coverage of its interval."""

import math

import pytest
import torch

import diffusion_book.data._torchvision  # noqa: F401  (torch-fidelity imports torchvision, which may need mending first)
from diffusion_book.evaluation import extract, kernel_distance, mmd_squared


def brute_force(x: torch.Tensor, y: torch.Tensor) -> float:
    """E k(x, x') + E k(y, y') − 2 E k(x, y), each over pairs of different examples, one pair at a time."""
    D = x.shape[1]

    def kernel(u, v) -> float:
        return (sum(p * q for p, q in zip(u, v)) / D + 1) ** 3

    def within(z: list[list[float]]) -> float:
        pairs = [kernel(u, v) for i, u in enumerate(z) for j, v in enumerate(z) if i != j]
        return sum(pairs) / len(pairs)

    x, y = x.tolist(), y.tolist()
    return within(x) + within(y) - 2 * sum(kernel(u, v) for u in x for v in y) / (len(x) * len(y))


def test_all_pairs_by_hand(generator):
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(5, 3, generator=generator, dtype=torch.float64) + 1
    assert float(mmd_squared(x, y)) == pytest.approx(brute_force(x, y), rel=1e-12)


def test_torch_fidelity_agrees(generator):
    """One subset of everything."""
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = torch.randn(2, 60, 9, generator=generator, dtype=torch.float64)
    theirs = metric_kid.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=60, verbose=False)
    assert float(mmd_squared(x, y)) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)


def test_the_blocks_are_a_partition(generator):
    """By hand, with the same shuffle; and sets of different sizes are both used whole."""
    x, y = torch.randn(11, 2, generator=generator), torch.randn(17, 2, generator=generator) + 0.3
    found = kernel_distance(x, y, torch.Generator().manual_seed(7), blocks=3)
    shuffle = torch.Generator().manual_seed(7)
    x, y = x[torch.randperm(11, generator=shuffle)].double(), y[torch.randperm(17, generator=shuffle)].double()
    each = [brute_force(x[:4], y[:6]), brute_force(x[4:8], y[6:12]), brute_force(x[8:], y[12:])]
    mean = sum(each) / 3
    error = math.sqrt(sum((e - mean) ** 2 for e in each) / 2 / 3)
    assert found.value == pytest.approx(mean, rel=1e-10)
    assert found.standard_error == pytest.approx(error, rel=1e-10)
    assert found.high - found.value == pytest.approx(4.302652729911275 * error, rel=1e-10)  # t of 0.975, two degrees
    assert found.value - found.low == pytest.approx(found.high - found.value, rel=1e-10)
    assert (found.blocks, found.confidence) == (3, 0.95)


def test_it_is_unbiased_and_its_interval_holds_the_truth(generator):
    """In one dimension the truth is known from moments: (xy + 1)³ has Σ_p C(3,p) (E xᵖ − E yᵖ)² for its MMD².

    N(0, 1) and N(0.3, 1): differences of moments 0.3, 0.09 and 0.3³ + 3·0.3. With 300 draws a share of 95 % has an
    error of 1.3 %, here four times; the estimates of blocks of 200 are nearly normal, those of small ones are skewed.
    """
    truth = 3 * 0.3**2 + 3 * 0.09**2 + (0.3**3 + 0.9) ** 2
    draws = 300
    found = []
    for _ in range(draws):
        x, y = torch.randn(2, 2000, 1, generator=generator, dtype=torch.float64)
        found.append(kernel_distance(x, y + 0.3, generator, blocks=10))
    values = torch.tensor([f.value for f in found])
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / math.sqrt(draws)
    held = sum(f.low <= truth <= f.high for f in found) / draws
    assert abs(held - 0.95) < 4 * math.sqrt(0.05 * 0.95 / draws)
    assert float(values.std()) == pytest.approx(sum(f.standard_error for f in found) / draws, rel=0.15)


def test_real_against_real_is_about_zero_and_noise_is_not(train, test, extractor, generator):
    real = extract(extractor, train.x)
    same = kernel_distance(real, extract(extractor, test.x), generator, blocks=10)
    noisy = (test.x + 0.3 * torch.randn(test.x.shape, generator=generator)).clamp(-1, 1)
    other = kernel_distance(real, extract(extractor, noisy), generator, blocks=10)
    assert other.low > same.high
    assert abs(same.value) < 0.1 * other.value


def test_bad_input_is_told(generator):
    x = torch.randn(10, 2, generator=generator)
    with pytest.raises(ValueError, match="10 and 10 examples do not give 20 blocks"):
        kernel_distance(x, x, generator)
    with pytest.raises(ValueError, match="at least 2 blocks"):
        kernel_distance(x, x, generator, blocks=1)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        kernel_distance(x, x, generator, blocks=2, confidence=95)
    with pytest.raises(ValueError, match="one length, got 2 and 1"):
        kernel_distance(x, x[:, :1], generator, blocks=2)
    with pytest.raises(ValueError, match="NaN"):
        kernel_distance(x, x / 0, generator, blocks=2)
