"""Random numbers: each example's own, from a generator that is said."""

import numpy as np
import pytest
import torch

from diffusion_book import samplers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_the_generators_and_like_x(dtype, generator):
    x = torch.zeros(2, 3, dtype=dtype)
    state = generator.get_state()
    eps = samplers.randn_like(x, generator)
    assert (eps.shape, eps.dtype) == (x.shape, dtype)
    assert torch.equal(eps, torch.randn(2, 3, generator=generator.set_state(state), dtype=dtype))


def test_the_noise_of_an_example_does_not_depend_on_its_batch():
    x = torch.zeros(3, 2, 4)
    together = samplers.randn_like(x, samplers.seeded([7, 8, 9]))
    assert torch.equal(together[1:2], samplers.randn_like(x[:1], samplers.seeded([8])))
    assert torch.equal(together[2], torch.randn(2, 4, generator=torch.Generator().manual_seed(9)))
    assert not torch.equal(together[0], together[1])
    # A second draw goes on where the first stopped, for each by itself.
    generators = samplers.seeded([7, 8, 9])
    samplers.randn_like(x, generators)
    alone = samplers.seeded([9])
    samplers.randn_like(x[:1], alone)
    assert torch.equal(samplers.randn_like(x, generators)[2:], samplers.randn_like(x[:1], alone))
    assert samplers.randn_like(torch.zeros(0, 5), []).shape == (0, 5)


@pytest.mark.parametrize("seeds", [np.arange(3), np.array([0, 1, 2], dtype=np.uint8), [np.int64(0), True, 2]])
def test_seeds_may_be_whole_numbers_of_numpy(seeds):
    assert [generator.initial_seed() for generator in samplers.seeded(seeds)] == [0, 1, 2]


def test_another_number_of_generators_than_examples_is_refused():
    with pytest.raises(ValueError, match="give one generator for each of the 3 examples, got 2"):
        samplers.randn_like(torch.zeros(3, 2), samplers.seeded([1, 2]))


@pytest.mark.parametrize("generator", [None, 5, [1, 2], "seed"])
def test_what_is_no_generator_is_told(generator):
    with pytest.raises(ValueError, match=r"random numbers need a torch.Generator, .* got "):
        samplers.randn_like(torch.zeros(2, 3), generator)


@pytest.mark.parametrize(("seeds", "got"), [(5, "5"), ("12", "'12'"), ([1.5], r"\[1.5\]"), ([0, "1"], r"\[0, '1'\]")])
def test_one_seed_is_not_a_list_of_them_nor_is_a_fraction_a_seed(seeds, got):
    with pytest.raises(
        ValueError, match=rf"one whole number for each example is needed, such as range\(16\), got {got}$"
    ):
        samplers.seeded(seeds)


@pytest.mark.parametrize("generator", [torch.Generator(), samplers.seeded([1, 2])])
def test_noise_like_integers_is_refused(generator):
    with pytest.raises(
        ValueError, match=r"floating point, got torch.int64; use .float\(\), and scale images to \[−1, 1\] first"
    ):
        samplers.randn_like(torch.zeros(2, 3, dtype=torch.long), generator)
