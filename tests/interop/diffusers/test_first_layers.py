"""What diffusers has no option for, in the first layers of its networks: patches, and the time that they call 0."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from _support.networks import randomised
from _support.unet2d import T4, TINY
from diffusion_book.interop import unet_from_diffusers, unet_to_diffusers
from diffusion_book.nn import SIZES, UNet

PATCHED = {
    "digits": replace(SIZES["digits"], classes=10),
    "colour": replace(SIZES["tiny"], patch=4, image_channels=3),
    "learned-variance": replace(SIZES["tiny"], patch=3, image_channels=2, learned_variance=True),
    "one-pixel": replace(SIZES["tiny"], image_channels=4),
}


@pytest.mark.parametrize("origin", [0, 1])
@pytest.mark.parametrize("config", PATCHED.values(), ids=PATCHED.keys())
def test_a_network_with_patches_says_the_same_of_unshuffled_images_and_comes_back_bit_for_bit(
    config, origin, generator
):
    p, classes = config.patch, config.classes
    ours = randomised(UNet(replace(config, time_origin=origin)))
    options, state = unet_to_diffusers(ours, (8 * p, 4 * p), time_origin=origin)
    assert list(options["sample_size"]) == [8, 4]
    theirs = UNet2DModel(**options).eval()
    theirs.load_state_dict(state)
    x = torch.randn(4, config.image_channels, 8 * p, 4 * p, generator=generator)
    y = torch.tensor([0, 3, 9, 10]) if classes else None
    with torch.no_grad():
        expected = ours(x, T4, y)
        found = theirs(pixel_unshuffle(x, p), T4 - origin, class_labels=y).sample
        torch.testing.assert_close(pixel_shuffle(found, p), expected, rtol=1e-5, atol=1e-5)

    again = unet_from_diffusers(options, state, last_is_no_label=bool(classes), time_origin=origin, patch=p)
    assert again.config == ours.config
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())
    assert again.stem.weight.is_contiguous()
    inside = unet_from_diffusers(options, state, last_is_no_label=bool(classes), time_origin=origin)
    with torch.no_grad():
        found = pixel_shuffle(inside(pixel_unshuffle(x, p), T4, y), p)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_patches_that_a_network_of_diffusers_has_not_are_named():
    state = randomised(UNet2DModel(**TINY | {"in_channels": 4, "out_channels": 4})).state_dict()
    options = TINY | {"in_channels": 4, "out_channels": 4}
    with pytest.raises(ValueError, match=r"conv_in\.weight looks beyond the patch of its position"):
        unet_from_diffusers(options, state, patch=2)
    with pytest.raises(ValueError, match="in_channels = 4 does not fit: patch = 3 needs a multiple of 9"):
        unet_from_diffusers(options, state, patch=3)
    with pytest.raises(ValueError, match="patch must be a whole number of at least 1, got 0"):
        unet_from_diffusers(options, state, patch=0)
    with pytest.raises(ValueError, match=r"conv_in.weight must have the shape \(16, 4, 3, 3\), got \(16, 4\)"):
        unet_from_diffusers(options, state | {"conv_in.weight": torch.zeros(16, 4)}, patch=2)
    unet_from_diffusers(options, state)


def test_a_network_that_counted_from_elsewhere_is_turned_to_a_flow(generator):
    ours = randomised(UNet(replace(SIZES["tiny"], time_origin=3)))
    options, state = unet_to_diffusers(ours, 8, time_origin=0)
    theirs = UNet2DModel(**options).eval()
    theirs.load_state_dict(state)
    x, clock = torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([3.0, 0.25, 500.5, 1000.0])
    with torch.no_grad():
        expected = ours(x, clock)
        torch.testing.assert_close(theirs(x, clock).sample, expected, rtol=0, atol=5e-4)
        torch.testing.assert_close(
            unet_from_diffusers(options, state, time_origin=0)(x, clock), expected, rtol=0, atol=5e-4
        )
    assert (theirs(x, clock - 3).sample - expected).square().mean().sqrt() > 2e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_turned_layer_keeps_the_precision_of_its_network(dtype):
    ours = randomised(UNet(replace(SIZES["tiny"], time_origin=3))).to(dtype)
    _, state = unet_to_diffusers(ours)
    assert {value.dtype for value in state.values()} == {dtype}
    _, single = unet_to_diffusers(ours.float())
    first = "time_embedding.linear_1.weight"
    # One rounding to that precision; of float64, the single precision of the sinusoids.
    rounding = max(torch.finfo(dtype).eps / 2, 1e-6)
    torch.testing.assert_close(state[first].float(), single[first], rtol=rounding, atol=1e-6)


@pytest.mark.parametrize(
    ("image_size", "found"), [(None, None), (12, 6), ((12, 8), (6, 4)), ([12, 8], (6, 4)), ((8, 8), 4)]
)
def test_the_size_of_images_is_told_in_patches(image_size, found):
    options, _ = unet_to_diffusers(UNet(replace(SIZES["tiny"], patch=2)), image_size)
    assert options["sample_size"] == found


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("image_size", ["8", 8.0, 0, (8,), (8, 8, 8), (8, None), {8, 16}])
def test_what_is_no_size_of_an_image_is_told(image_size, patch):
    with pytest.raises(ValueError, match="image_size must be a whole number of at least 1, got"):
        unet_to_diffusers(UNet(replace(SIZES["tiny"], patch=patch)), image_size)
