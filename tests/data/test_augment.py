"""Pictures that could as well be in the set: mirror images, and small moves."""

import math

import pytest
import torch
from torch import Tensor, nn

from diffusion_book.data.augment import flip_half, move, warp


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, generator: torch.Generator, side: int = 8) -> Tensor:
    return 2 * torch.rand(n, 1, side, side, generator=generator) - 1


def test_each_picture_or_its_mirror_image_half_of_the_time(generator):
    n = 4000
    x = images(n, generator, side=4)
    found = flip_half(x, seeded())
    mirrored = torch.stack([x[..., 3 - column] for column in range(4)], dim=-1)
    left, flipped = ((found == other).flatten(1).all(1) for other in (x, mirrored))
    assert (left ^ flipped).all()
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / n))
    assert torch.equal(found, flip_half(x, seeded()))
    assert not torch.equal(found, flip_half(x, seeded(6)))


def test_only_images_are_flipped(generator):
    with pytest.raises(ValueError, match=r"only images \[B, C, H, W\] can be flipped, got \[8, 2\]; leave flip out"):
        flip_half(torch.randn(8, 2, generator=generator), generator)


def test_each_image_moves_its_own_way_within_the_range_and_follows_the_generator(generator):
    x = -torch.ones(200, 1, 28, 28)
    x[:, :, 13:15, 13:15] = 1
    moved = move(x, 1.0, seeded())
    assert torch.equal(moved, move(x, 1.0, seeded()))
    assert not torch.equal(moved, move(x, 1.0, seeded(6)))
    assert float(moved.min()) >= -1.0001
    assert float(moved.max()) <= 1.0001
    # Where the dot's centre of mass went: at most 2 pixels, a tenth more for the scale, each way, and all of them.
    mass = (moved + 1) / (moved + 1).sum((2, 3), keepdim=True)
    place = torch.arange(28) - 13.5
    offset = torch.stack([(mass * place).sum((1, 2, 3)), (mass * place[:, None]).sum((1, 2, 3))])
    assert float(offset.abs().max()) < 2 * (1 + 0.1 + math.radians(10)) / 0.9
    # Uniform on ±2: the standard deviation is 2/√3 = 1.15; of 200 its standard error is about 4 %.
    assert offset.std(1).tolist() == pytest.approx([2 / 3**0.5] * 2, rel=0.2)
    assert abs(float(torch.corrcoef(offset)[0, 1])) < 4 / 200**0.5


def still(n: int = 2) -> dict[str, Tensor]:
    return {"angle": torch.zeros(n), "scale": torch.ones(n), "right": torch.zeros(n), "down": torch.zeros(n)}


def test_a_known_shift_is_that_shift(generator):
    """A window 2 pixels of 28 to the right shows the picture 2 pixels to the left, and black after it."""
    x = images(2, generator, 28)
    found = warp(x, **{**still(), "right": torch.full((2,), 2 / 14)})
    torch.testing.assert_close(found[..., :-2], x[..., 2:], rtol=0, atol=2e-5)
    torch.testing.assert_close(found[..., -2:], torch.full((2, 1, 28, 2), -1.0), rtol=0, atol=2e-5)
    found = warp(x, **{**still(), "down": torch.tensor([0.0, -3 / 14])})
    torch.testing.assert_close(found[0], x[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(found[1, :, 3:], x[1, :, :-3], rtol=0, atol=2e-5)


def test_a_quarter_turn_and_a_double_window(generator):
    x = images(2, generator, 28)
    found = warp(x, **{**still(), "angle": torch.full((2,), math.pi / 2)})
    # A window that turns clockwise shows a picture that turns against the clock.
    torch.testing.assert_close(found, torch.rot90(x, 1, (2, 3)), rtol=0, atol=1e-4)
    found = warp(x, **{**still(), "scale": torch.full((2,), 2.0)})
    # Every pixel in the middle now lies amid four, and is their mean.
    torch.testing.assert_close(found[..., 7:21, 7:21], nn.functional.avg_pool2d(x, 2), rtol=0, atol=1e-4)
    assert bool((found[..., :6, :] == -1).all())
