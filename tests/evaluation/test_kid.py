"""The kernel distance against a double loop, a reference package, and the coverage of its interval."""

import importlib
import math

import pytest
import torch

import diffusion_book._torchvision  # noqa: F401  (torch-fidelity imports torchvision, which may need mending first)
from diffusion_book.evaluation import extract, kid

module = importlib.import_module("diffusion_book.evaluation.kid")  # `evaluation.kid` is the function


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


def test_torch_fidelity_agrees(generator):
    """One subset of everything."""
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = torch.randn(2, 60, 9, generator=generator, dtype=torch.float64)
    theirs = metric_kid.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=60, verbose=False)
    assert kid(x, y, generator).value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)


def test_value_and_jackknife_by_hand(generator, monkeypatch):
    """Each group left out in turn and everything computed again, with the same shuffle, for sets of two sizes."""
    x, y = torch.randn(11, 2, generator=generator), torch.randn(17, 2, generator=generator) + 0.3
    found = kid(x, y, torch.Generator().manual_seed(7), groups=3)
    shuffle = torch.Generator().manual_seed(7)
    p = [*x[torch.randperm(11, generator=shuffle)].double().split([4, 4, 3])]
    q = [*y[torch.randperm(17, generator=shuffle)].double().split([6, 6, 5])]
    without = [brute_force(torch.cat(p[:g] + p[g + 1 :]), torch.cat(q[:g] + q[g + 1 :])) for g in range(3)]
    mean = sum(without) / 3
    error = math.sqrt(2 / 3 * sum((w - mean) ** 2 for w in without))
    assert found.value == pytest.approx(brute_force(x.double(), y.double()), rel=1e-10)
    assert found.standard_error == pytest.approx(error, rel=1e-10)
    assert found.high - found.value == pytest.approx(4.302652729911275 * error, rel=1e-10)  # t of 0.975, two degrees
    assert found.value - found.low == pytest.approx(found.high - found.value, rel=1e-10)
    assert (found.groups, found.confidence) == (3, 0.95)
    monkeypatch.setattr(module, "BLOCK", 7)  # the same in many blocks
    again = kid(x, y, torch.Generator().manual_seed(7), groups=3)
    assert (again.value, again.high) == pytest.approx((found.value, found.high), rel=1e-12)


@pytest.mark.parametrize("shift", [0.3, 0.0])
def test_it_is_unbiased_and_its_interval_holds_the_truth(shift, generator):
    """In one dimension the truth is known from moments: (xy + 1)³ has Σ_p C(3, p) (E xᵖ − E yᵖ)² for its MMD².

    Between −1 and 1, uniform, and the same moved by s, the moments differ by s, s² and s³ + s. With 300 draws a share
    of 95 % has an error of 1.3 %, here four times; where nothing differs more intervals than that may hold the truth.
    """
    truth = 3 * shift**2 + 3 * shift**4 + (shift**3 + shift) ** 2
    draws = 300
    found = []
    for _ in range(draws):
        x, y = 2 * torch.rand(2, 300, 1, generator=generator, dtype=torch.float64) - 1
        found.append(kid(x, y + shift, generator, groups=10))
    values = torch.tensor([f.value for f in found])
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / math.sqrt(draws)
    held = sum(f.low <= truth <= f.high for f in found) / draws
    room = 4 * math.sqrt(0.05 * 0.95 / draws)
    assert held > 0.95 - room
    if shift:
        assert held < 0.95 + room
        assert float(values.std()) == pytest.approx(sum(f.standard_error for f in found) / draws, rel=0.2)


def test_real_against_real_is_about_zero_and_noise_is_not(train, test, extractor, generator):
    real = extract(extractor, train.x)
    same = kid(real, extract(extractor, test.x), generator, groups=10)
    noisy = (test.x + 0.3 * torch.randn(test.x.shape, generator=generator)).clamp(-1, 1)
    other = kid(real, extract(extractor, noisy), generator, groups=10)
    assert other.low > same.high
    assert abs(same.value) < 0.1 * other.value


def test_bad_input_is_told(generator):
    x = torch.randn(10, 2, generator=generator)
    with pytest.raises(ValueError, match="10 and 10 examples do not give 20 groups"):
        kid(x, x, generator)
    with pytest.raises(ValueError, match="at least 2 groups"):
        kid(x, x, generator, groups=1)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        kid(x, x, generator, groups=2, confidence=95)
    with pytest.raises(ValueError, match="one length, got 2 and 1"):
        kid(x, x[:, :1], generator, groups=2)
    with pytest.raises(ValueError, match="NaN"):
        kid(x, x / 0, generator, groups=2)
