"""The encoder of captions against torch's own transformer, and what its masks promise."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffusion_book.nn import TextConfig, TextEncoder, TextUNet, TextUNetConfig, UNet, build, describe
from diffusion_book.nn.transformer import TransformerBlock, looks_at, quick_gelu

CONFIG = TextConfig(vocabulary=11, length=6, width=16, layers=2, heads=4)
TOKENS = torch.tensor([[3, 1, 10, 0, 0, 0], [2, 2, 4, 5, 1, 7]])


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_is_that_of_torch(generator, randomised, causal):
    ours = randomised(TransformerBlock(16, 4))
    theirs = nn.TransformerEncoderLayer(16, 4, 64, dropout=0, activation="gelu", batch_first=True, norm_first=True)
    pairs = {
        "self_attn.in_proj": ours.qkv,
        "self_attn.out_proj.": ours.out,
        "linear1.": ours.expand,
        "linear2.": ours.contract,
        "norm1.": ours.norm1,
        "norm2.": ours.norm2,
    }
    state = {}
    for name, layer in pairs.items():
        glue = "_" if name.endswith("proj") else ""
        state |= {f"{name}{glue}weight": layer.weight, f"{name}{glue}bias": layer.bias}
    theirs.load_state_dict(state)
    x = torch.randn(2, 6, 16, generator=generator)
    counts = TOKENS != 0
    allowed = looks_at(counts, causal)
    expected = theirs(x, src_mask=~allowed.repeat(1, 4, 1, 1).flatten(0, 1))
    torch.testing.assert_close(ours(x, allowed), expected)


def test_quick_gelu_is_near_gelu_and_not_it():
    x = torch.linspace(-5, 5, 101)
    assert 0.001 < (quick_gelu(x) - F.gelu(x)).abs().max() < 0.03


def test_words_that_do_not_count_change_nothing(randomised):
    """Longer or shorter rows of padding, whatever is learnt for the token of padding, give the same words."""
    encoder = randomised(TextEncoder(CONFIG))
    found = encoder(TOKENS[:1])
    shorter = encoder(TOKENS[:1, :3])
    torch.testing.assert_close(found.context[:, :3], shorter.context)
    torch.testing.assert_close(found.pooled, shorter.pooled)
    torch.testing.assert_close(found.pooled[0], found.context[0, :3].mean(0))
    assert found.mask.tolist() == [[True] * 3 + [False] * 3]


def test_an_empty_text_is_a_vector_of_zeros(randomised):
    found = randomised(TextEncoder(CONFIG))(torch.zeros(2, 6, dtype=torch.int64))
    assert not found.mask.any()
    assert torch.equal(found.pooled, torch.zeros(2, 16))
    assert found.context.isfinite().all()


def test_a_causal_word_knows_only_those_before_it(randomised):
    other = TOKENS.clone()
    other[1, 4] = 9
    for causal in (False, True):
        encoder = randomised(TextEncoder(dataclasses.replace(CONFIG, causal=causal)))
        same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(encoder(TOKENS).context[1], encoder(other).context[1])]
        assert same == ([True] * 4 + [False] * 2 if causal else [False] * 6)


def test_the_order_of_words_is_heard(randomised):
    encoder = randomised(TextEncoder(CONFIG))
    assert not torch.allclose(encoder(TOKENS).pooled, encoder(TOKENS.flip(1)).pooled)


def test_the_end_stands_for_the_text_in_clip(randomised):
    encoder = randomised(TextEncoder(dataclasses.replace(CONFIG, causal=True, pool="end", padding=None)))
    found = encoder(TOKENS)
    assert found.mask.all()
    torch.testing.assert_close(found.pooled, torch.stack([found.context[0, 2], found.context[1, 5]]))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS.float(), r"tokens must be int64 \[B, L\]"),
        (TOKENS[0], r"tokens must be int64 \[B, L\]"),
        (TOKENS.repeat(1, 2), "a text has at most 6 tokens here, got 12"),
        (TOKENS + 1, "tokens are numbered 0 … 10, got 1 … 11"),
    ],
)
def test_what_is_no_text_is_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(CONFIG)(tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "width must be a multiple of heads = 3, got 16"),
        ({"vocabulary": 0}, "vocabulary must be a whole number of at least 1"),
        ({"activation": "relu"}, "unknown activation 'relu'"),
        ({"pool": "max"}, "pool must be 'mean' or 'end', got 'max'"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


# With a U-Net


UNET = TextUNetConfig.named("tiny", image_channels=3, context_dim=16, pooled_dim=16, vocabulary=11, length=6)


def test_a_text_unet_is_a_unet_that_is_told_what_the_encoder_says(generator, randomised):
    network = randomised(TextUNet(UNET))
    x, t = torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([3.0, 700.0])
    context, mask, pooled = network.text(TOKENS)
    expected = network.unet(x, t, context=context, context_mask=mask, pooled=pooled)
    assert torch.equal(network(x, t, tokens=TOKENS), expected)
    assert not torch.allclose(network(x, t, tokens=TOKENS.flip(0)), expected)
    assert isinstance(network.unet, UNet)


def test_no_caption_is_the_caption_of_no_words(generator, randomised):
    network = randomised(TextUNet(UNET))
    x, t = torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([3.0, 700.0])
    torch.testing.assert_close(network(x, t), network(x, t, tokens=torch.zeros_like(TOKENS)))


def test_every_weight_of_the_encoder_learns(generator, randomised):
    network = randomised(TextUNet(UNET))
    x, t = torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([3.0, 700.0])
    network(x, t, tokens=TOKENS).square().sum().backward()
    silent = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


def test_a_description_builds_it_again():
    network = build({"kind": "text-unet", "size": "tiny", "context_dim": 16, "vocabulary": 11, "length": 6})
    again = build(describe(network))
    assert again.config == network.config
    assert [p.shape for p in again.parameters()] == [p.shape for p in network.parameters()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 0}, "vocabulary must be a whole number of at least 1"),
        ({"context_dim": 0, "pooled_dim": 0}, "context_dim must be a whole number of at least 1"),
        ({"pooled_dim": 5}, "pooled_dim must be 0 or context_dim = 16, got 5"),
        ({"text_heads": 3}, "width must be a multiple of heads = 3"),
    ],
)
def test_what_cannot_be_a_text_unet_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(UNET, **changes)
