"""The time embedding against diffusers."""

import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from diffusion_book.nn.embedding import ClassEmbedding, TimeEmbedding, timestep_embedding


@pytest.mark.parametrize("dim", [2, 16, 64, 320])
@pytest.mark.parametrize("max_period", [100.0, 10_000.0])
@pytest.mark.parametrize(("shift", "sines_first"), [(0, False), (1, False), (0, True)])
def test_sinusoids_are_those_of_diffusers(dim, max_period, shift, sines_first):
    if dim == 2 and shift == 1:
        with pytest.raises(ValueError, match="frequency_shift = 1 needs more than 1 frequencies, got 1"):
            timestep_embedding(torch.tensor([1]), dim, max_period, shift)
        return
    t = torch.tensor([0, 1, 2, 17, 500, 999, 1000])
    theirs = get_timestep_embedding(t, dim, not sines_first, downscale_freq_shift=shift, max_period=int(max_period))
    # An angle of up to 1000 in single precision is off by 1000 · 6e-8, twice.
    torch.testing.assert_close(timestep_embedding(t, dim, max_period, shift, sines_first), theirs, rtol=0, atol=2e-4)


def test_the_distance_of_two_times_depends_only_on_their_difference():
    """cos(s)cos(t) + sin(s)sin(t) = cos(s − t) at each frequency: why sinusoids tell times apart evenly."""
    one, two = timestep_embedding(torch.tensor([3, 10]), 64), timestep_embedding(torch.tensor([503, 510]), 64)
    torch.testing.assert_close((one[0] * one[1]).sum(), (two[0] * two[1]).sum(), rtol=1e-4, atol=0)
    assert one.square().sum(1).tolist() == pytest.approx([32, 32], rel=1e-5)


@pytest.mark.parametrize("t", [torch.tensor([0.5, 7.0]), torch.tensor([1, 7]), torch.tensor([1, 7], dtype=torch.int32)])
def test_times_may_be_integer_or_real(t):
    found = timestep_embedding(t, 8)
    assert (found.shape, found.dtype) == ((2, 8), torch.float32)
    assert found[0, 0].item() == pytest.approx(torch.cos(t[0].double()).item(), abs=1e-6)


def test_an_odd_number_of_features_is_refused():
    with pytest.raises(ValueError, match="dim must be even, half for cosines and half for sines, got 7"):
        timestep_embedding(torch.tensor([1]), 7)


@pytest.mark.parametrize(
    ("t", "options", "message"),
    [
        (torch.tensor(1), {}, r"one time an example, \[B\], got shape \(\)"),
        (torch.tensor([[1], [2]]), {}, r"one time an example, \[B\], got shape \(2, 1\)"),
        *(
            (torch.tensor([1]), {"max_period": period}, f"max_period must be positive and finite, got {period}; 10,000")
            for period in (0, -1.0, math.nan, math.inf)
        ),
        (torch.tensor([1]), {"frequency_shift": -1}, "frequency_shift must not be negative, got -1; 0 and 1"),
    ],
)
def test_sinusoids_of_nothing_are_refused(t, options, message):
    with pytest.raises(ValueError, match=message):
        timestep_embedding(t, 8, **options)


def test_the_embedding_has_two_layers_with_gradients():
    embed = TimeEmbedding(8, 12)
    out = embed(torch.tensor([1, 500]))
    assert out.shape == (2, 12)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in embed.parameters())


@pytest.mark.parametrize("y", [7, [7, 7]])
def test_labels_that_are_no_tensor_are_refused(y):
    with pytest.raises(ValueError, match=r"labels must be a tensor of integers in 0 … 10 \(10 means .*\), got \[?7"):
        ClassEmbedding(10, 4)(y, batch=2)
