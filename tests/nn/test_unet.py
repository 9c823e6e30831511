"""The U-Net: its parts against torch and diffusers, its whole by what must hold."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional as F

from diffusion_book.nn import SIZES, UNet, UNetConfig
from diffusion_book.nn.unet import ResBlock, SelfAttention, Upsample

TINY = SIZES["tiny"]
T4 = torch.tensor([1, 250, 700, 1000])

CONFIGS = {
    "tiny": TINY,
    "classes": replace(TINY, classes=10),
    "patch": replace(TINY, patch=2, image_channels=3),
    "one-level": replace(TINY, channel_mults=(2,), attention_levels=()),
    "three-levels": replace(TINY, channel_mults=(1, 2, 1), blocks=2, attention_levels=(0, 2)),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network away from its zero start, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def images(config: UNetConfig, generator: torch.Generator, side: int = 8) -> torch.Tensor:
    return torch.randn(4, config.image_channels, side, side, generator=generator)


@every_config
def test_at_the_start_the_output_is_zero_and_of_the_inputs_shape(config, generator):
    x = images(config, generator)
    out = UNet(config)(x, T4)
    assert out.shape == x.shape
    assert not out.any()


@every_config
def test_after_one_step_from_zero_every_parameter_gets_a_gradient(config, generator):
    network = UNet(config)
    x = images(config, generator)
    y = torch.tensor([0, 1, 9, 10]) if config.classes else None
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    # The zero layers shut the branches behind them: the head opens at the first step, the branches at the second.
    for step in range(3):
        optimiser.zero_grad()
        (network(x, T4, y) - x).square().mean().backward()
        if step < 2:
            optimiser.step()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters())
    assert dead == []
    if network.embed_class is not None:
        rows = network.embed_class.weight.grad.abs().sum(1) > 0
        assert rows.nonzero().flatten().tolist() == [0, 1, 9, 10]


def test_no_label_is_the_label_after_the_last(generator):
    network = randomised(UNet(CONFIGS["classes"]))
    x = images(TINY, generator)
    assert torch.equal(network(x, T4), network(x, T4, torch.full((4,), 10)))
    assert not torch.allclose(network(x, T4), network(x, T4, torch.tensor([3, 3, 3, 3])))


def test_no_label_works_with_real_times(generator):
    network = UNet(CONFIGS["classes"])
    assert network(images(TINY, generator), T4 / 1000).shape == (4, 1, 8, 8)


@every_config
def test_examples_do_not_see_each_other(config, generator):
    network, x = randomised(UNet(config)), images(config, generator)
    alone = torch.cat([network(x[i : i + 1], T4[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(network(x, T4), alone, rtol=1e-4, atol=1e-5)


def test_time_matters(generator):
    network, x = randomised(UNet(TINY)), images(TINY, generator)
    assert not torch.allclose(network(x, T4), network(x, T4.flip(0)))


def test_dropout_acts_only_in_training(generator):
    network = randomised(UNet(replace(TINY, dropout=0.5)))
    x = images(TINY, generator)
    assert torch.equal(network.eval()(x, T4), network.eval()(x, T4))
    assert not torch.equal(network.train()(x, T4), network.train()(x, T4))
    plain = UNet(TINY).eval()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(x, T4), plain(x, T4))


@every_config
def test_sides_are_multiples_of_the_stride(config, generator):
    network = UNet(config)
    stride = config.stride
    assert stride == config.patch * 2 ** (len(config.channel_mults) - 1)
    x = torch.zeros(1, config.image_channels, 2 * stride, 3 * stride)
    assert network(x, T4[:1]).shape == x.shape
    if stride > 1:
        for H, W in ((2 * stride + 1, stride), (stride, stride // 2)):
            with pytest.raises(ValueError, match=rf"multiples of {stride} for this U-Net, got {H}×{W}; pad"):
                network(torch.zeros(1, config.image_channels, H, W), T4[:1])


@pytest.mark.parametrize(("name", "side"), [("tiny", 28), ("digits", 28), ("small", 32)])
def test_the_named_sizes_fit_the_images_they_are_for(name, side):
    config = UNetConfig.named(name)
    assert side % config.stride == 0
    with torch.device("meta"):
        network = UNet(config)
        x = torch.zeros(2, config.image_channels, side, side)
        assert network(x, torch.ones(2, dtype=torch.long)).shape == x.shape
    assert UNetConfig.named(name, classes=10) == replace(config, classes=10)


def test_a_pixel_of_the_stem_is_a_patch():
    """patch = 2: the first block sees half of each side, and the head's pixels come back to where they were taken."""
    network = randomised(UNet(CONFIGS["patch"]))
    seen = []
    network.down[0][0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    network(torch.zeros(1, 3, 8, 8), T4[:1])
    assert seen == [(1, 16, 4, 4)]
    shuffled = F.pixel_shuffle(torch.arange(4.0).reshape(1, 4, 1, 1), 2)
    assert shuffled.flatten().tolist() == [0, 1, 2, 3]


@every_config
def test_each_rung_on_the_way_up_finds_the_one_beside_it(config, generator):
    """The last features in are the first out, and they arrive behind those from below."""
    network = randomised(UNet(config))
    left, found = [], []
    for module in [network.stem, *network.downsample, *(stage for stages in network.down for stage in stages)]:
        module.register_forward_hook(lambda module, args, out: left.append(out))
    for stage in (stage for stages in network.up for stage in stages):
        stage.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    network(images(config, generator), T4)
    assert len(left) == len(found) == len(config.channel_mults) * (config.blocks + 1)
    for beside, h in zip(reversed(left), found):
        assert torch.equal(h[:, -beside.shape[1] :], beside)


def test_attention_is_that_of_torch(generator):
    """The same weights in `nn.MultiheadAttention`, which was written by others."""
    ours = randomised(SelfAttention(32, 8, groups=4))
    theirs = nn.MultiheadAttention(32, num_heads=4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight[:, :, 0, 0])
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight[:, :, 0, 0])
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(2, 32, 3, 5, generator=generator)
    sequence = ours.norm(x).flatten(2).mT
    expected = x + theirs(sequence, sequence, sequence)[0].mT.reshape(x.shape)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels_in", "channels"), [(16, 16), (16, 32), (48, 16)])
def test_a_residual_block_is_that_of_diffusers(channels_in, channels, generator):
    """With the same weights: theirs applies SiLU to the embedding inside, ours once for the whole network."""
    ours = randomised(ResBlock(channels_in, channels, 24, groups=8, dropout=0.0))
    theirs = ResnetBlock2D(
        in_channels=channels_in,
        out_channels=channels,
        temb_channels=24,
        groups=8,
        eps=1e-5,
        time_embedding_norm="scale_shift",
    ).eval()
    names = {"scale_shift": "time_emb_proj", "shortcut": "conv_shortcut"}
    state = {}
    for key, value in ours.state_dict().items():
        part, kind = key.rsplit(".", 1)
        state[f"{names.get(part, part)}.{kind}"] = value
    theirs.load_state_dict(state)
    x, embedding = torch.randn(3, channels_in, 6, 6, generator=generator), torch.randn(3, 24, generator=generator)
    torch.testing.assert_close(ours(x, F.silu(embedding)), theirs(x, embedding), rtol=1e-4, atol=1e-5)


def test_at_the_start_a_block_and_attention_are_their_shortcuts(generator):
    x = torch.randn(2, 16, 4, 4, generator=generator)
    assert torch.equal(ResBlock(16, 16, 8, 4, 0.0)(x, torch.randn(2, 8, generator=generator)), x)
    assert torch.equal(SelfAttention(16, 8, 4)(x), x)


def test_upsampling_repeats_pixels(generator):
    up = Upsample(2)
    x = torch.randn(1, 2, 2, 3, generator=generator)
    with torch.no_grad():  # the identity as a convolution
        up.conv.bias.zero_()
        up.conv.weight.zero_()
        up.conv.weight[[0, 1], [0, 1], 1, 1] = 1
    torch.testing.assert_close(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_mults": ()}, r"needs at least one level, such as \(1, 2, 2\)"),
        ({"channels": 20}, "groups = 8 must divide the features of every level, got 20"),
        ({"channels": 15, "groups": 1}, "channels must be even, got 15"),
        ({"attention_levels": (2,)}, r"attention_levels must lie in 0 … 1, got 2"),
        ({"attention_levels": (-1,)}, r"attention_levels must lie in 0 … 1, got -1"),
        ({"head_channels": 24}, "head_channels = 24 must divide the features of attention level 1"),
        (
            {"channel_mults": (2, 1), "attention_levels": (0,), "head_channels": 32},
            r"attention level 1 \(the middle is level 1\), got 16",
        ),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
    ],
)
def test_a_bad_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_an_unknown_size_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match="unknown U-Net size 'huge'; choose one of tiny, digits, small"):
        UNetConfig.named("huge")


@pytest.mark.parametrize(
    ("x", "t", "y", "message"),
    [
        (torch.zeros(2, 3, 8, 8), [1, 2], None, r"expected images \[B, 1, H, W\], got shape \(2, 3, 8, 8\)"),
        (torch.zeros(1, 8, 8), [1], None, r"expected images \[B, 1, H, W\], got shape \(1, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8), [1], None, r"one time for each of the 2 images, got shape \(1,\)"),
        (torch.zeros(2, 1, 8, 8), 5, None, r"one time for each of the 2 images, got shape \(\)"),
        (torch.zeros(2, 1, 8, 8), [1, 2], [1], r"one label for each of the 2 images, got shape \(1,\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, t, y, message):
    network = UNet(CONFIGS["classes"])
    with pytest.raises(ValueError, match=message):
        network(x, torch.tensor(t), None if y is None else torch.tensor(y))


def test_labels_without_classes_are_refused():
    with pytest.raises(ValueError, match=r"no classes \(classes=0\), so it takes no labels y"):
        UNet(TINY)(torch.zeros(1, 1, 8, 8), T4[:1], torch.tensor([1]))


def test_weights_go_through_a_state_dict(generator):
    network = randomised(UNet(TINY))
    other = UNet(TINY).eval()
    other.load_state_dict(copy.deepcopy(network.state_dict()))
    x = images(TINY, generator)
    assert torch.equal(network(x, T4), other(x, T4))
