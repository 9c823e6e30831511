"""The spatial transformer against that of diffusers, and what its masks promise."""

import pytest
import torch

from diffusion_book.nn.transformer import SpatialTransformer

RENAMED = {
    "norm.": "norm.",
    "proj_in.": "enter.",
    "proj_out.": "leave.",
    "transformer_blocks.0.norm1.": "norm1.",
    "transformer_blocks.0.norm2.": "norm2.",
    "transformer_blocks.0.norm3.": "norm3.",
    "transformer_blocks.0.attn1.to_q.": "itself.q.",
    "transformer_blocks.0.attn1.to_k.": "itself.k.",
    "transformer_blocks.0.attn1.to_v.": "itself.v.",
    "transformer_blocks.0.attn1.to_out.0.": "itself.out.",
    "transformer_blocks.0.attn2.to_q.": "text.q.",
    "transformer_blocks.0.attn2.to_k.": "text.k.",
    "transformer_blocks.0.attn2.to_v.": "text.v.",
    "transformer_blocks.0.attn2.to_out.0.": "text.out.",
    "transformer_blocks.0.ff.net.0.proj.": "expand.",
    "transformer_blocks.0.ff.net.2.": "contract.",
}


@pytest.fixture
def ours(randomised):
    return randomised(SpatialTransformer(16, context_dim=6, head_channels=4, groups=4))


def test_it_is_that_of_diffusers(ours, generator):
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    theirs = Transformer2DModel(4, 4, in_channels=16, norm_num_groups=4, cross_attention_dim=6)
    state = ours.state_dict()
    renamed = {
        there + end: state[here + end]
        for there, here in RENAMED.items()
        for end in ("weight", "bias")
        if here + end in state
    }
    assert len(renamed) == len(state)
    theirs.load_state_dict(renamed)
    x, context = torch.randn(2, 16, 4, 5, generator=generator), torch.randn(2, 7, 6, generator=generator)
    mask = torch.tensor([[True] * 3 + [False] * 4, [True] * 7])
    torch.testing.assert_close(ours(x, context), theirs(x, context).sample)
    masked = theirs(x, context, encoder_attention_mask=mask).sample
    torch.testing.assert_close(ours(x, context, mask), masked)


def test_an_example_without_tokens_has_no_text(ours, generator):
    x, context = torch.randn(3, 16, 4, 4, generator=generator), torch.randn(3, 7, 6, generator=generator)
    mask = torch.tensor([[True] * 7, [False] * 7, [True] * 2 + [False] * 5])
    found = ours(x, context, mask)
    torch.testing.assert_close(found[:1], ours(x[:1], context[:1]))
    torch.testing.assert_close(found[1:2], ours(x[1:2]))
    torch.testing.assert_close(found[2:], ours(x[2:], context[2:, :2]))
    torch.testing.assert_close(ours(x, context[:, :0]), ours(x))


def test_at_the_start_it_is_its_shortcut(generator):
    x, context = torch.randn(2, 16, 4, 4, generator=generator), torch.randn(2, 7, 6, generator=generator)
    layer = SpatialTransformer(16, context_dim=6, head_channels=None, groups=None)
    assert torch.equal(layer(x, context), x)
