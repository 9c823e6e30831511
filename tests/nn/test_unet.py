"""The U-Net by what must hold of the whole. Its parts, and all of it against diffusers: test_blocks, interop."""

import copy
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import nn
from torch.nn import functional as F

from diffusion_book.nn import SIZES, UNet, UNetConfig
from diffusion_book.nn.unet import MIXERS
from diffusion_book.nn.unet_config import Mixer

TINY = SIZES["tiny"]
T4 = torch.tensor([1, 250, 700, 1000])

CONFIGS = {
    "tiny": TINY,
    "classes": replace(TINY, classes=10),
    "patch": replace(TINY, patch=2, image_channels=3),
    "one-level": replace(TINY, channel_mults=(2,), attention_levels=()),
    "three-levels": replace(TINY, channel_mults=(1, 2, 1), blocks=2, attention_levels=(0, 2)),
    "fractions": replace(TINY, channel_mults=(1, 1.5, 2.5), attention_levels=(0,), head_channels=8),
    "others": replace(
        TINY,
        conditioning="add",
        resample="block",
        middle_attention_norm=False,
        head_channels=None,
        time_origin=1,
        frequency_shift=1,
        sines_first=True,
    ),
    "middle-only": replace(TINY, attention_levels=(), middle_attention=True, pad_end=True, norm_eps=1e-3),
    "text": replace(TINY, context_dim=6, channel_mults=(1, 2, 2)),
    "spatial": replace(TINY, context_dim=6, mixer="spatial_transformer"),
    "heads": replace(TINY, attention_levels=(0, 1), head_channels=(16, 8)),
    "pooled": replace(TINY, pooled_dim=5, classes=10),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


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
    context = torch.randn(4, 3, config.context_dim, generator=generator) if config.context_dim else None
    pooled = torch.randn(4, config.pooled_dim, generator=generator) if config.pooled_dim else None
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    # The zero layers shut the branches behind them: the head opens at the first step, the branches at the second.
    for step in range(3):
        optimiser.zero_grad()
        (network(x, T4, y, context, pooled=pooled) - x).square().mean().backward()
        if step < 2:
            optimiser.step()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters())
    assert dead == []
    if network.embed_class is not None:
        rows = network.embed_class.weight.grad.abs().sum(1) > 0
        assert rows.nonzero().flatten().tolist() == [0, 1, 9, 10]


def test_no_label_is_the_label_after_the_last(generator, randomised):
    network = randomised(UNet(CONFIGS["classes"]))
    x = images(TINY, generator)
    assert torch.equal(network(x, T4), network(x, T4, torch.full((4,), 10)))
    assert not torch.allclose(network(x, T4), network(x, T4, torch.tensor([3, 3, 3, 3])))


def test_no_label_works_with_real_times(generator):
    network = UNet(CONFIGS["classes"])
    assert network(images(TINY, generator), T4 / 1000).shape == (4, 1, 8, 8)


@every_config
def test_examples_do_not_see_each_other(config, generator, randomised):
    network, x = randomised(UNet(config)), images(config, generator)
    alone = torch.cat([network(x[i : i + 1], T4[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(network(x, T4), alone, rtol=1e-4, atol=1e-5)


@every_config
def test_without_gradients_it_says_the_same_and_leaves_its_inputs_alone(config, generator, randomised):
    network, x = randomised(UNet(config)), images(config, generator)
    before, with_gradients = x.clone(), network(x, T4)
    with torch.no_grad():
        assert torch.equal(network(x, T4), with_gradients)
        assert torch.equal(network(x, T4), with_gradients)
    assert torch.equal(x, before)


@every_config
def test_half_the_bits_give_nearly_the_same(config, generator, randomised):
    network, x = randomised(UNet(config)), images(config, generator)
    exact = network(x, T4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, T4)
    assert (rounded - exact).norm() < 0.1 * exact.norm()


def test_time_matters(generator, randomised):
    network, x = randomised(UNet(TINY)), images(TINY, generator)
    assert not torch.allclose(network(x, T4), network(x, T4.flip(0)))


def test_dropout_acts_only_in_training(generator, randomised):
    network = randomised(UNet(replace(TINY, dropout=0.5)))
    x = images(TINY, generator)
    assert torch.equal(network.eval()(x, T4), network.eval()(x, T4))
    assert not torch.equal(network.train()(x, T4), network.train()(x, T4))
    plain = UNet(TINY).eval()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(x, T4), plain(x, T4))


def test_the_text_matters_token_by_token(generator, randomised):
    network, x = randomised(UNet(CONFIGS["text"])), images(TINY, generator)
    context = torch.randn(4, 5, 6, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 2, 1, 0])[:, None]
    out = network(x, T4, context=context, context_mask=mask)
    assert bool(torch.isfinite(out).all())
    # What is masked is as good as not there; the last example has no text.
    short = network(x[1:2], T4[1:2], context=context[1:2, :2])
    torch.testing.assert_close(out[1:2], short, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[3:], network(x[3:], T4[3:]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(out[:3], network(x, T4)[:3])
    # Every place with attention reads it: one on the way down, the middle, two on the way up, on two levels of three.
    assert sum(name.endswith("cross.kv.weight") for name in network.state_dict()) == 1 + 1 + 2


def test_the_pooled_text_is_added_to_the_embedding_of_the_time(generator, randomised):
    """By two layers, as in SDXL: `diffusers` calls them add_embedding."""
    network = randomised(UNet(CONFIGS["pooled"]))
    pooled, y = torch.randn(4, 5, generator=generator), torch.tensor([0, 1, 9, 10])
    theirs = TimestepEmbedding(5, 64)
    for layer, ours in ((theirs.linear_1, network.embed_pooled[0]), (theirs.linear_2, network.embed_pooled[2])):
        layer.load_state_dict(ours.state_dict())
    expected = F.silu(network.embed_time(T4) + network.embed_class(y, 4) + theirs(pooled))
    torch.testing.assert_close(network.embed(T4, y, pooled), expected)


def test_a_pooled_text_matters_and_none_is_a_vector_of_zeros(generator, randomised):
    network, x = randomised(UNet(CONFIGS["pooled"])), images(TINY, generator)
    out = network(x, T4, pooled=torch.randn(4, 5, generator=generator))
    none = network(x, T4)
    assert not torch.allclose(out, none)
    assert torch.equal(network(x, T4, pooled=torch.zeros(4, 5)), none)


@every_config
def test_the_four_parts_can_be_called_one_by_one(config, generator, randomised):
    """A network beside it may add to the shortcuts: what it adds arrives, and nothing added is the network itself."""
    network, x = randomised(UNet(config)), images(config, generator)
    context = torch.randn(4, 3, config.context_dim, generator=generator) if config.context_dim else None
    mask = None if context is None else torch.tensor([[True, True, False]] * 4)

    def controlled(strength: float) -> torch.Tensor:
        embedding = network.embed(T4)
        rungs = network.descend(network.stem(x), embedding, context, mask)
        assert len(rungs) == len(config.channel_mults) * (config.blocks + 1)
        h = network.turn(rungs[-1], embedding, context, mask)
        return network.ascend(h, [h + strength * torch.ones_like(h) for h in rungs], embedding, context, mask)

    assert torch.equal(controlled(0.0), network(x, T4, None, context, mask))
    assert not torch.allclose(controlled(1.0), controlled(0.0))


def test_a_stage_takes_its_mixer_from_the_table(generator, monkeypatch):
    """Its layers come behind the block where there is to be attention, under their names, and hear of the text."""
    heard = []

    class Echo(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(channels, 1, 1))

        def forward(self, h: torch.Tensor, context: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            heard.append((context, mask))
            return self.gain * h

    monkeypatch.setitem(MIXERS, "attention", lambda level, config, norm: {"echo": Echo(config.widths[level])})
    network = UNet(replace(TINY, context_dim=6))
    found = [name.removesuffix(".echo.gain") for name in network.state_dict() if name.endswith("gain")]
    assert found == ["down.1.0", "middle.0", "up.0.0", "up.0.1"]
    context, mask = torch.randn(4, 3, 6, generator=generator), torch.ones(4, 3, dtype=torch.bool)
    network(images(TINY, generator), T4, None, context, mask)
    assert len(heard) == 4
    assert all(told[0] is context and told[1] is mask for told in heard)


def test_each_level_has_its_own_heads():
    """The last level's are the middle's as well; those of a level that does not mix need not divide it."""
    config = replace(TINY, channel_mults=(1, 2, 4), attention_levels=(0, 2), head_channels=(4, 7, 32), context_dim=6)
    for mixer, inside in (("attention", "attention"), ("spatial_transformer", "transformer.text")):
        network = UNet(replace(config, mixer=mixer))
        stages = {"down.0.0": 4, "down.2.0": 2, "middle.0": 2, "up.0.1": 2, "up.2.1": 4}
        assert {name: network.get_submodule(f"{name}.{inside}").heads for name in stages} == stages


def test_every_mixer_that_a_configuration_may_name_is_in_the_table():
    assert set(MIXERS) == set(get_args(Mixer))


@pytest.mark.parametrize("patch", [1, 2])
def test_a_learned_variance_comes_behind_the_prediction(patch, generator, randomised):
    """The first half is what a network without it says that has the same weights."""
    config = replace(TINY, image_channels=3, patch=patch)
    plain, both = randomised(UNet(config)), randomised(UNet(replace(config, learned_variance=True)), seed=1)
    state, rows = plain.state_dict(), 3 * patch**2
    v_head = {f"head.{kind}": both.state_dict()[f"head.{kind}"][rows:] for kind in ("weight", "bias")}
    both.load_state_dict(state | {key: torch.cat([state[key], rest]) for key, rest in v_head.items()})
    x = images(config, generator)
    prediction, v = both(x, T4).chunk(2, dim=1)
    torch.testing.assert_close(prediction, plain(x, T4), rtol=1e-5, atol=1e-6)
    plain.load_state_dict(state | v_head)
    torch.testing.assert_close(v, plain(x, T4), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_the_same_gradients_and_computes_twice(dropout, generator, randomised):
    config = replace(CONFIGS["text"], classes=4, dropout=dropout)
    x, context = images(config, generator), torch.randn(4, 3, 6, generator=generator)
    state = randomised(UNet(config)).state_dict()
    gradients, runs = [], []
    for checkpoint in (False, True):
        network = UNet(replace(config, checkpoint=checkpoint))
        network.load_state_dict(state)
        count = []
        network.middle[0].block.register_forward_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(3)  # of the dropout
        network(x, T4, T4 % 4, context).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
        with torch.no_grad():
            network(x, T4, T4 % 4, context)
        runs.append(len(count))
    assert runs == [2, 3]
    for without, with_ in zip(*gradients):
        torch.testing.assert_close(with_, without, rtol=1e-6, atol=1e-8)


def test_the_time_origin_shifts_time(generator, randomised):
    from_0, from_1 = randomised(UNet(TINY)), UNet(replace(TINY, time_origin=1))
    from_1.load_state_dict(from_0.state_dict())
    x = images(TINY, generator)
    assert torch.equal(from_1(x, T4), from_0(x, T4 - 1))


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


def test_a_pixel_of_the_stem_is_a_patch(randomised):
    """patch = 2: the first block sees half of each side, and the head's pixels come back to where they were taken."""
    network = randomised(UNet(CONFIGS["patch"]))
    seen = []
    network.down[0][0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    network(torch.zeros(1, 3, 8, 8), T4[:1])
    assert seen == [(1, 16, 4, 4)]
    shuffled = F.pixel_shuffle(torch.arange(4.0).reshape(1, 4, 1, 1), 2)
    assert shuffled.flatten().tolist() == [0, 1, 2, 3]


@every_config
def test_each_rung_on_the_way_up_finds_the_one_beside_it(config, generator, randomised):
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: value}, f"^{name} must be a whole number of at least 1, got {value}$")
            for name in ("image_channels", "channels", "blocks", "patch", "groups", "head_channels")
            for value in (0, -8, 1.5)
        ),
        *(
            ({name: value}, f"^{name} must be a whole number of at least 0, got {value}$")
            for name in ("classes", "context_dim", "pooled_dim", "frequency_shift")
            for value in (-1, 1.5)
        ),
        ({"channel_mults": ()}, r"needs at least one level, such as \(1, 2, 2\), got \(\)"),
        ({"channel_mults": 2}, r"needs at least one level, such as \(1, 2, 2\), got 2"),
        ({"channel_mults": (1, math.nan)}, r"channel_mults must be finite numbers, .* got \(1, nan\)"),
        ({"channel_mults": (1, math.inf)}, r"channel_mults must be finite numbers, .* got \(1, inf\)"),
        ({"channel_mults": (1, -1)}, r"a whole number of features, got 16 × -1 = -16"),
        ({"norm_eps": 0.0}, "norm_eps must be positive and finite, got 0.0; 1e-5 is usual"),
        ({"norm_eps": math.nan}, "norm_eps must be positive and finite, got nan"),
        ({"norm_eps": math.inf}, "norm_eps must be positive and finite, got inf"),
        ({"dropout": math.nan}, r"dropout must lie in \[0, 1\), got nan"),
        ({"channels": 20}, "groups = 8 must divide the features of every level, got 20"),
        ({"channels": 15, "groups": 1}, "channels must be even, got 15"),
        ({"attention_levels": (2,)}, r"attention_levels must be whole numbers in 0 … 1, got 2"),
        ({"attention_levels": (-1,)}, r"attention_levels must be whole numbers in 0 … 1, got -1"),
        ({"attention_levels": (1.0,)}, r"attention_levels must be whole numbers in 0 … 1, got 1.0"),
        ({"head_channels": 24}, "head_channels = 24 must divide the features of attention level 1"),
        ({"head_channels": (16, 24)}, r"head_channels = \(16, 24\) must divide the features of attention level 1"),
        ({"head_channels": (16, 0)}, "head_channels must be a whole number of at least 1, got 0"),
        ({"head_channels": (16,)}, r"head_channels needs a number for each of 2 levels, got \(16,\)"),
        (
            {"channel_mults": (2, 1), "attention_levels": (0,), "head_channels": 32},
            r"attention level 1 \(the middle is level 1\), got 16",
        ),
        ({"channel_mults": (1, 1.3)}, r"a whole number of features, got 16 × 1.3 = 20.8; change channel_mults"),
        ({"channel_mults": (1, 0)}, "a whole number of features, got 16 × 0 = 0"),
        ({"context_dim": 4, "attention_levels": ()}, "context_dim needs attention somewhere"),
        ({"context_dim": 4, "middle_attention": False, "attention_levels": ()}, "context_dim needs attention"),
        ({"mixer": "spatial_transformer"}, "mixer = 'spatial_transformer' reads a text; give context_dim"),
        ({"mixer": "attentio"}, r"unknown mixer 'attentio' \(did you mean 'attention'\?\); choose one of attention"),
        ({"conditioning": "film"}, "conditioning must be 'scale_shift' or 'add', got 'film'"),
        ({"resample": "pool"}, "resample must be 'conv' or 'block', got 'pool'"),
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
        (
            torch.zeros(2, 1, 8, 8).byte(),
            [1, 2],
            None,
            r"images must be floating point, got torch.uint8; use .float\(\)",
        ),
        (torch.zeros(2, 1, 8, 8), [1], None, r"one time for each of the 2 images, got shape \(1,\)"),
        (torch.zeros(2, 1, 8, 8), 5, None, r"one time for each of the 2 images, got shape \(\)"),
        (torch.zeros(2, 1, 8, 8), [1, 2], [1], r"one label for each of the 2 examples, got shape \(1,\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, t, y, message):
    network = UNet(CONFIGS["classes"])
    with pytest.raises(ValueError, match=message):
        network(x, torch.tensor(t), None if y is None else torch.tensor(y))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([3, 11]), r'labels must lie in 0 … 10 \(10 means "no label"\), got 3 … 11'),
        (torch.tensor([-1, 3]), r"labels must lie in 0 … 10 .*, got -1 … 3"),
        (torch.tensor([1.0, 2.0]), r"labels must be integers in 0 … 10 .*, got dtype torch.float32; use y.long\(\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        UNet(CONFIGS["classes"])(torch.zeros(2, 1, 8, 8), T4[:2], y)


def test_a_network_without_the_no_label_wants_labels(generator, randomised):
    network, x = randomised(UNet(replace(TINY, classes=3, no_label=False))), images(TINY, generator)
    assert network(x, T4, torch.tensor([0, 1, 2, 2])).shape == x.shape
    with pytest.raises(ValueError, match="no vector for a missing label; give y, labels in 0 … 2"):
        network(x, T4)
    with pytest.raises(ValueError, match="labels must lie in 0 … 2, got 0 … 3"):
        network(x, T4, torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("config", "context", "mask", "message"),
    [
        (TINY, torch.zeros(2, 3, 6), None, r"reads no text \(context_dim=0\), so it takes no context"),
        (CONFIGS["text"], torch.zeros(2, 3, 5), None, r"expected context \[2, L, 6\], got shape \(2, 3, 5\)"),
        (CONFIGS["text"], torch.zeros(1, 3, 6), None, r"expected context \[2, L, 6\], got shape \(1, 3, 6\)"),
        (CONFIGS["text"], torch.zeros(2, 3, 6).long(), None, r"context must be floating point, got torch.int64; use"),
        (CONFIGS["text"], None, torch.ones(2, 3, dtype=torch.bool), "there is no context"),
        (CONFIGS["text"], torch.zeros(2, 3, 6), torch.ones(2, 3), r"must be boolean \(2, 3\), .* got torch.float32"),
        (CONFIGS["text"], torch.zeros(2, 3, 6), torch.ones(2, 4, dtype=torch.bool), r"got torch.bool \(2, 4\)"),
    ],
)
def test_a_text_that_does_not_fit_is_refused(config, context, mask, message):
    with pytest.raises(ValueError, match=message):
        UNet(config)(torch.zeros(2, 1, 8, 8), T4[:2], context=context, context_mask=mask)


@pytest.mark.parametrize(
    ("config", "pooled", "message"),
    [
        (TINY, torch.zeros(2, 5), r"takes no vector of a text \(pooled_dim=0\), so it takes no pooled"),
        (CONFIGS["pooled"], torch.zeros(2, 4), r"expected pooled \[2, 5\], got shape \(2, 4\)"),
        (CONFIGS["pooled"], torch.zeros(5), r"expected pooled \[2, 5\], got shape \(5,\)"),
        (CONFIGS["pooled"], torch.zeros(1, 5), r"expected pooled \[2, 5\], got shape \(1, 5\)"),
        (CONFIGS["pooled"], torch.zeros(2, 5).long(), "pooled must be floating point, got torch.int64"),
        (CONFIGS["pooled"], [0.0] * 5, r"pooled must be a tensor \[B, …\], got list"),
    ],
)
def test_a_pooled_text_that_does_not_fit_is_refused(config, pooled, message):
    with pytest.raises(ValueError, match=message):
        UNet(config)(torch.zeros(2, 1, 8, 8), T4[:2], pooled=pooled)


def test_labels_without_classes_are_refused():
    with pytest.raises(ValueError, match=r"no classes \(classes=0\), so it takes no labels y"):
        UNet(TINY)(torch.zeros(1, 1, 8, 8), T4[:1], torch.tensor([1]))


def test_weights_go_through_a_state_dict(generator, randomised):
    network = randomised(UNet(TINY))
    other = UNet(TINY).eval()
    other.load_state_dict(copy.deepcopy(network.state_dict()))
    x = images(TINY, generator)
    assert torch.equal(network(x, T4), other(x, T4))


@pytest.mark.parametrize("t", [5, None])
def test_a_time_that_is_no_tensor_is_refused(t):
    with pytest.raises(ValueError, match=rf"one time for each of the 2 images, got {t}; pass a tensor \[2\]"):
        UNet(CONFIGS["classes"])(torch.zeros(2, 1, 8, 8), t)
