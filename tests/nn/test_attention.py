"""Attention against `nn.MultiheadAttention`, which was written by others."""

import pytest
import torch
from torch import nn

from diffusion_book.nn.attention import CrossAttention, SelfAttention, attend


def test_self_attention_is_that_of_torch(generator, randomised):
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


@pytest.mark.parametrize("lengths", [None, [7, 1, 4]])
def test_cross_attention_is_that_of_torch(lengths, generator, randomised):
    ours = randomised(CrossAttention(32, 12, 8, groups=4))
    theirs = nn.MultiheadAttention(32, num_heads=4, kdim=12, vdim=12, batch_first=True)
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.q.weight[:, :, 0, 0])
        theirs.k_proj_weight.copy_(ours.kv.weight[:32])
        theirs.v_proj_weight.copy_(ours.kv.weight[32:])
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight[:, :, 0, 0])
        theirs.out_proj.bias.copy_(ours.out.bias)
    x, context = torch.randn(3, 32, 3, 5, generator=generator), torch.randn(3, 7, 12, generator=generator)
    mask = None if lengths is None else torch.arange(7) < torch.tensor(lengths)[:, None]
    sequence = ours.norm(x).flatten(2).mT
    expected, _ = theirs(sequence, context, context, key_padding_mask=None if mask is None else ~mask)
    torch.testing.assert_close(ours(x, context, mask), x + expected.mT.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_an_example_without_tokens_has_no_text(generator, randomised):
    """Its softmax would be 0/0: neither the output nor a gradient may be NaN, and the tokens must not matter."""
    attend = randomised(CrossAttention(16, 6, None, groups=4))
    x = torch.randn(3, 16, 2, 2, generator=generator, requires_grad=True)
    context = torch.randn(3, 5, 6, generator=generator, requires_grad=True)
    mask = torch.tensor([[True] * 5, [False] * 5, [True] + [False] * 4])
    out = attend(x, context, mask)
    none = attend(x, None)
    assert torch.equal(out[1], none[1])
    assert torch.equal(attend(x, context[:, :0]), none)
    assert not torch.allclose(out[2], none[2])
    out.square().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in [x, context, *attend.parameters()])
    assert context.grad.abs().sum(2).ne(0).tolist() == mask.tolist()


def test_at_the_start_attention_is_its_shortcut(generator):
    x = torch.randn(2, 16, 4, 4, generator=generator)
    assert torch.equal(SelfAttention(16, 8, 4)(x), x)
    assert torch.equal(CrossAttention(16, 6, 8, 4)(x, torch.randn(2, 3, 6, generator=generator)), x)
    assert torch.equal(CrossAttention(16, 6, 8, 4)(x, None), x)


def test_in_bfloat16_it_is_that_of_float32_to_its_precision(generator):
    """Rounding q, k, v and the result to 8 bits of mantissa: 2^-8 of the largest value, a few times over."""
    q, k, v = torch.randn(3, 2, 2, 5, 8, generator=generator).unbind(0)
    exact = attend(q, k, v)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=4 * 2**-8 * float(v.abs().max()))
