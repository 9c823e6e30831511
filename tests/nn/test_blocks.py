"""The parts of a U-Net against those of diffusers."""

import pytest
import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch.nn import functional as F

from diffusion_book.nn.blocks import Downsample, ResBlock, Upsample, silu


@pytest.mark.parametrize("resample", [None, "down", "up"])
@pytest.mark.parametrize("conditioning", ["scale_shift", "add"])
@pytest.mark.parametrize(("channels_in", "channels"), [(16, 16), (16, 32), (48, 16)])
def test_a_residual_block_is_that_of_diffusers(channels_in, channels, conditioning, resample, generator, randomised):
    """With the same weights: theirs applies SiLU to the embedding inside, ours once for the whole network."""
    ours = randomised(ResBlock(channels_in, channels, 24, 8, 0.0, 1e-3, conditioning, resample))
    theirs = ResnetBlock2D(
        in_channels=channels_in,
        out_channels=channels,
        temb_channels=24,
        groups=8,
        eps=1e-3,
        time_embedding_norm="scale_shift" if conditioning == "scale_shift" else "default",
        down=resample == "down",
        up=resample == "up",
    ).eval()
    names = {"scale_shift": "time_emb_proj", "shift": "time_emb_proj", "shortcut": "conv_shortcut"}
    state = {}
    for key, value in ours.state_dict().items():
        part, kind = key.rsplit(".", 1)
        state[f"{names.get(part, part)}.{kind}"] = value
    theirs.load_state_dict(state)
    x, embedding = torch.randn(3, channels_in, 6, 6, generator=generator), torch.randn(3, 24, generator=generator)
    torch.testing.assert_close(ours(x, F.silu(embedding)), theirs(x, embedding), rtol=1e-4, atol=1e-5)


def test_at_the_start_a_block_is_its_shortcut(generator):
    x, embedding = torch.randn(2, 16, 4, 4, generator=generator), torch.randn(2, 8, generator=generator)
    assert torch.equal(ResBlock(16, 16, 8, 4, 0.0)(x, embedding), x)
    assert torch.equal(ResBlock(16, 16, 8, 4, 0.0, conditioning="add")(x, embedding), x)


@pytest.mark.parametrize("pad_end", [False, True])
def test_downsampling_is_that_of_diffusers(pad_end, generator, randomised):
    ours = randomised(Downsample(4, pad_end))
    theirs = Downsample2D(4, use_conv=True, padding=0 if pad_end else 1)
    theirs.conv.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 6, 8, generator=generator)
    assert ours(x).shape == (2, 4, 3, 4)
    torch.testing.assert_close(ours(x), theirs(x))


def test_upsampling_is_that_of_diffusers(generator, randomised):
    """Theirs repeats the pixels and convolves; ours does both at once. Values and gradients agree."""
    ours = randomised(Upsample(4))
    theirs = Upsample2D(4, use_conv=True)
    theirs.conv.load_state_dict(ours.conv.state_dict())
    found = []
    for up in (ours, theirs):
        x = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = up(x)
        out.square().sum().backward()
        found.append((out, x.grad, up.conv.weight.grad, up.conv.bias.grad))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_silu_overwrites_only_where_no_gradient_needs_it(generator):
    x = torch.randn(8, generator=generator)
    before = x.clone()
    with_gradients = silu(x)
    assert torch.equal(x, before)
    with torch.no_grad():
        assert torch.equal(silu(x), with_gradients)
    assert torch.equal(x, with_gradients)
