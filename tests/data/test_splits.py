"""Duplicates, nearest neighbours and splits, against sets made to have them."""

import pytest
import torch

from diffusion_book.data import Images, duplicates, nearest, split


def noise(n: int, generator: torch.Generator, shape: tuple[int, ...] = (3, 5, 4)) -> torch.Tensor:
    return 2 * torch.rand(n, *shape, generator=generator) - 1


def test_planted_duplicates_are_found_between_sets_and_within_one(generator):
    a, b = noise(7, generator), noise(9, generator)
    a[2], a[5], b[8] = b[4], b[0], b[4]
    assert duplicates(a, b).tolist() == [[2, 4], [2, 8], [5, 0]]
    assert duplicates(b).tolist() == [[4, 8]]
    assert duplicates(a).shape == (0, 2)
    assert duplicates(a).dtype == torch.int64


def test_duplicates_are_equal_in_bytes_not_in_floats(generator):
    a = noise(4, generator).mul(127.5).round() / 127.5 - 1 / 255  # bytes, exactly
    a = a.clamp(-1, 1)
    assert duplicates(a, a + 0.3 / 127.5).tolist() == [[i, i] for i in range(4)]
    assert not len(duplicates(a, (a - 2 / 127.5).clamp(-1, 1)))


@pytest.mark.parametrize("block", [1, 3, 100])
def test_the_nearest_is_that_of_brute_force(block, generator):
    a, b = noise(10, generator), noise(13, generator)
    every = torch.tensor([[(x - y).double().pow(2).mean().sqrt() for y in b] for x in a])
    distance, index = nearest(a, b, block)
    torch.testing.assert_close(distance.double(), every.min(1).values, rtol=1e-6, atol=0)
    assert torch.equal(index, every.argmin(1))


@pytest.mark.parametrize("block", [1, 3, 100])
def test_within_one_set_no_image_is_its_own_neighbour(block, generator):
    a = noise(10, generator)
    distance, index = nearest(a, block=block)
    for i in range(10):
        others = torch.cat([a[:i], a[i + 1 :]])
        assert torch.equal(nearest(a[i : i + 1], others)[0], distance[i : i + 1])
        assert index[i] != i


def test_a_copy_is_at_distance_zero_and_an_inverse_at_two(generator):
    a = noise(5, generator, (1, 28, 28))
    distance, index = nearest(a, a.flip(0))
    assert torch.equal(distance, torch.zeros(5))
    assert index.tolist() == [4, 3, 2, 1, 0]
    assert nearest(torch.ones(1, 1, 8, 8), -torch.ones(1, 1, 8, 8))[0].item() == 2


@pytest.mark.parametrize("check", [duplicates, nearest])
def test_images_of_two_sizes_cannot_be_compared(check, generator):
    with pytest.raises(ValueError, match=r"of one size are needed, got \[2, 3, 5, 4\], \[2, 3, 5, 5\]"):
        check(noise(2, generator), noise(2, generator, (3, 5, 5)))


def test_nothing_to_compare_with_is_refused(generator):
    with pytest.raises(ValueError, match="nothing to compare with: got 1 images and 1 others"):
        nearest(noise(1, generator))
    with pytest.raises(ValueError, match="nothing to compare with: got 1 images and 0 others"):
        nearest(noise(1, generator), noise(0, generator))


def labelled(counts: list[int], generator: torch.Generator) -> Images:
    y = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    return Images(noise(len(y), generator), {"y": y[torch.randperm(len(y), generator=generator)]}, "made up")


def test_a_split_keeps_each_class_in_proportion_and_loses_nothing(generator):
    images = labelled([100, 40, 10], generator)
    kept, held_out = split(images, 0.2, generator)
    assert torch.bincount(held_out.conditions["y"]).tolist() == [20, 8, 2]
    assert torch.bincount(kept.conditions["y"]).tolist() == [80, 32, 8]
    assert not len(duplicates(kept.x, held_out.x))
    for part in (kept, held_out):  # in the old order, with the right labels
        index = duplicates(part.x, images.x)[:, 1]
        assert torch.equal(images.x[index], part.x)
        assert torch.equal(images.conditions["y"][index], part.conditions["y"])
        assert index.tolist() == sorted(index.tolist())
    assert (kept.name, held_out.name) == ("made up, kept", "made up, held out")


def test_a_split_is_the_generators(generator):
    images = labelled([50, 50], generator)
    first, again = (split(images, 0.5, torch.Generator().manual_seed(1))[1].x for _ in range(2))
    other = split(images, 0.5, torch.Generator().manual_seed(2))[1].x
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_split_without_labels_is_by_count(generator):
    kept, held_out = split(Images(noise(10, generator), {}, "made up"), 0.3, generator)
    assert (len(kept), len(held_out)) == (7, 3)
    assert "y" not in kept.conditions


@pytest.mark.parametrize(("share", "message"), [(0.0, "between 0 and 1, got 0.0"), (1.0, "1.0"), (0.01, "empty")])
def test_a_share_that_leaves_one_part_empty_is_refused(share, message, generator):
    with pytest.raises(ValueError, match=message):
        split(labelled([10, 10], generator), share, generator)


def test_a_part_without_a_dark_pixel_is_a_part(generator):
    """Floats, which a whole set without a dark pixel may not be: of ten images one is dark."""
    x = noise(10, generator).abs()
    x[3] = -x[3]
    for seed in range(5):
        kept, held_out = split(Images(x, {}, "made up"), 0.3, torch.Generator().manual_seed(seed))
        darkest = sorted(float(part.x.min()) for part in (kept, held_out))
        assert darkest[0] < 0 <= darkest[1]
        assert (len(kept), len(held_out)) == (7, 3)


def test_a_split_is_the_same_whatever_the_default_device(generator):
    images = labelled([20, 30], generator)
    expected = split(images, 0.5, torch.Generator().manual_seed(1))
    with torch.device("meta"):
        found = split(images, 0.5, torch.Generator().manual_seed(1))
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.conditions["y"], theirs.conditions["y"])


@pytest.mark.parametrize("compare", [duplicates, nearest])
def test_bytes_are_not_compared_as_if_they_were_scaled(compare, generator):
    """All six would be white, and so one picture."""
    x = torch.randint(256, (6, 3, 5, 4), generator=generator, dtype=torch.uint8)
    for a, b in ((x, None), (noise(6, generator), x)):
        with pytest.raises(ValueError, match=r"images must be floating point, got torch\.uint8"):
            compare(a, b)


def test_duplicates_are_looked_for_among_images_that_lie_in_their_range(generator):
    x = noise(6, generator)
    for a, b in ((255 * (x + 1) / 2, None), (x, 200 * x)):
        with pytest.raises(ValueError, match=r"images must lie in \[−1, 1\], got"):
            duplicates(a, b)
    assert not len(duplicates(x, x[:0]))  # nothing is in no range
