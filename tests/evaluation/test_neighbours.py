"""Nearest neighbours and memorisation, where the answer is known."""

import math

import pytest
import torch

from diffusion_book.data.images import to_uint8
from diffusion_book.evaluation import distances, memorisation, nearest


def test_brute_force_agrees(generator, monkeypatch):
    queries, references = torch.randn(9, 4, generator=generator), torch.randn(31, 4, generator=generator)
    every = torch.stack([torch.stack([(q - r).double().norm() for r in references]) for q in queries])
    expected = every.sort(1)
    for block in (2**24, 40):
        monkeypatch.setattr(distances, "BLOCK", block)
        found = nearest(queries, references, k=3)
        assert torch.equal(found.which, expected.indices[:, :3])
        torch.testing.assert_close(found.distance, expected.values[:, :3], rtol=1e-6, atol=0)


def test_images_are_compared_by_pixels_and_a_copy_is_at_zero(train):
    found = nearest(train.x[100:110], train.x, k=2)
    assert found.which[:, 0].tolist() == list(range(100, 110))
    assert torch.equal(found.distance[:, 0], torch.zeros(10, dtype=torch.float64))
    assert float(found.distance[:, 1].min()) > 1


def test_samples_that_are_like_held_out_ones_are_not_suspicious(generator):
    """`nearer` is ½ with the error of Mann and Whitney's statistic, √((n + m + 1)/(12 n m))."""
    train, held_out, samples = torch.randn(3, 800, 3, generator=generator)
    found = memorisation(samples, held_out, train)
    # Conditional on the training set, both sets of distances are independent draws of one distribution.
    assert abs(found.nearer - 0.5) < 4 * math.sqrt(1601 / (12 * 800**2))
    assert abs(found.suspicious - 0.01) < 4 * math.sqrt(2 * 0.01 * 0.99 / 800)
    assert found.copies == 0
    assert found.samples == sorted(found.samples)


def test_copies_are_found(generator):
    train, held_out, samples = torch.randn(3, 400, 3, generator=generator)
    samples[:100] = train[50:150]
    found = memorisation(samples, held_out, train)
    assert found.copies == 0.25
    assert found.suspicious >= 0.25
    assert found.samples[0] == 0
    assert abs(found.nearer - (0.25 + 0.75 * 0.5)) < 4 * math.sqrt(801 / (12 * 400**2))
    all_copied = memorisation(train[:300], held_out, train)
    assert (all_copied.nearer, all_copied.suspicious, all_copied.copies) == (1, 1, 1)
    assert memorisation(held_out, train[:300], train).nearer == 0


def test_numbers_by_hand():
    """Distances of samples 0, 2, 2 and of held-out ones 1, 2, 3, 4: pairs won 4 + 2·2.5 of 12."""
    train = torch.tensor([[0.0], [100.0]])
    found = memorisation(torch.tensor([[0.0], [2.0], [-2.0]]), torch.tensor([[1.0], [2.0], [-3.0], [4.0]]), train)
    assert found.nearer == pytest.approx((4 + 2.5 + 2.5) / 12)
    assert found.suspicious == pytest.approx(1 / 3)  # the 1 % quantile of 1, 2, 3, 4 is 1.03
    assert found.samples[3] == pytest.approx(2)
    assert found.held_out == pytest.approx([1.03, 1.15, 1.75, 2.5, 3.25, 3.85, 3.97])


def test_bad_input_is_told(generator):
    x = torch.randn(5, 2, generator=generator)
    with pytest.raises(ValueError, match="k must lie between 1 and the 5 references, got 6"):
        nearest(x, x, k=6)
    with pytest.raises(ValueError, match="one length, got 2 and 1"):
        nearest(x, x[:, :1])
    with pytest.raises(ValueError, match="NaN"):
        nearest(x / 0, x)


def test_bytes_are_not_compared_with_scaled_images(generator):
    x = 2 * torch.rand(6, 1, 4, 4, generator=generator) - 1
    for queries, references in ((x, to_uint8(x)), (to_uint8(x), x), (to_uint8(x), to_uint8(x))):
        with pytest.raises(ValueError, match=r"must be floating point, got torch\.uint8"):
            nearest(queries, references)
    with pytest.raises(ValueError, match=r"images must lie in \[−1, 1\], got"):
        nearest(x, 255 * (x + 1) / 2)
    with pytest.raises(ValueError, match=r"features must be a tensor .*, got ndarray"):
        distances.check_pair(x.flatten(1), x.flatten(1).numpy())
