"""The loop over a table of weights, and that of a network: what does not fit is named."""

import pytest
import torch
from diffusers import UNet2DModel

from _support.unet2d import TINY
from diffusion_book.interop import unet_from_diffusers
from diffusion_book.interop.diffusers.weights import Weights, as_matrix

# q, k and v in one beside three matrices, a table of positions beside a batch of one, and a number.
TABLE = Weights(
    "this network",
    renames=[
        (r"^at\.qkv\.", ("attention.q.", "attention.k.", "attention.v.")),
        (r"^at\.out\.", "attention.o."),
        (r"^positions", "embedding.positions"),
    ],
    shapes=[(r"^attention\..\.", as_matrix), (r"positions$", lambda shape: torch.Size((1, *shape)))],
    old=[(r"^attn\.", "attention.")],
)
THEIRS = {
    **{f"attention.{part}.weight": (4, 4) for part in "qkvo"},
    **{f"attention.{part}.bias": (4,) for part in "qkvo"},
    "embedding.positions": (1, 7, 4),
    "scale": (),
}


def ours(generator: torch.Generator) -> dict[str, torch.Tensor]:
    shapes = {"at.qkv.weight": (12, 4, 1, 1), "at.qkv.bias": (12,), "at.out.weight": (4, 4, 1, 1), "at.out.bias": (4,)}
    shapes |= {"positions": (7, 4), "scale": ()}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def test_weights_go_and_come_back_bit_for_bit(generator):
    before = ours(generator)
    written = TABLE.write(before)
    assert {name: tuple(value.shape) for name, value in written.items()} == THEIRS
    q, k, v = before["at.qkv.weight"][:, :, 0, 0].chunk(3)
    for part, value in (("q", q), ("k", k), ("v", v)):
        assert torch.equal(written[f"attention.{part}.weight"], value)
    after = TABLE.read(written, before)
    assert list(after) == list(before)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_neither_way_shares_memory_with_what_it_was_given(generator):
    before = ours(generator)
    copies = {key: value.clone() for key, value in before.items()}
    written = TABLE.write(before)
    read = TABLE.read(written, before)
    for value in (*read.values(), *written.values()):
        value.zero_()
    assert all(torch.equal(value, copies[key]) for key, value in before.items())
    read = TABLE.read(written, before)
    for value in read.values():
        value.fill_(1)
    assert all(not value.any() for value in written.values())


def test_the_order_of_numbers_in_memory_does_not_matter(generator):
    before = {"stem.weight": torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last)}
    table = Weights("this network", [])
    written = table.write(before)["stem.weight"]
    assert written.is_contiguous()
    assert torch.equal(written, before["stem.weight"])
    assert torch.equal(table.read(before, before)["stem.weight"], before["stem.weight"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_of_any_precision_are_read_in_single(dtype, generator):
    before = ours(generator)
    written = {name: value.to(dtype) for name, value in TABLE.write(before).items()}
    read = TABLE.read(written, before)
    assert {value.dtype for value in read.values()} == {torch.float32}
    assert torch.equal(read["positions"], before["positions"].to(dtype).float())


def test_old_names_are_understood(generator):
    before = ours(generator)
    written = {name.replace("attention.", "attn."): value for name, value in TABLE.write(before).items()}
    assert "attn.q.weight" in written
    read = TABLE.read(written, before)
    assert all(torch.equal(value, read[key]) for key, value in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention.k.bias": None}, r"the weights lack attention.k.bias, of shape \(4,\)"),
        (
            {"embedding.positions": torch.zeros(7, 4)},
            r"embedding.positions must have the shape \(1, 7, 4\), got \(7, 4\)",
        ),
        (
            {"attention.o.weight": torch.zeros(4, 4, 1, 1)},
            r"attention.o.weight must have the shape \(4, 4\), got \(4, 4, 1, 1\)",
        ),
        ({"more": torch.zeros(4)}, "more has no place in this network; the options do not speak of it"),
        ({"attn.q.bias": torch.zeros(4)}, "attention.q.bias is there twice, once under its old name"),
        (
            {"attention.q.bias": torch.zeros(4).to(torch.int8)},
            r"attention.q.bias must be a tensor .* got torch.int8; quantised",
        ),
        ({"attention.q.bias": torch.zeros(4, dtype=torch.complex64)}, "attention.q.bias .* got torch.complex64"),
        ({"attention.q.bias": [0.0] * 4}, "attention.q.bias must be a tensor .* got list"),
    ],
)
def test_a_weight_that_does_not_fit_is_named_and_nothing_is_changed(change, message, generator):
    expected = ours(generator)
    written = TABLE.write(expected) | change
    written = {name: value for name, value in written.items() if value is not None}
    before = dict(written)
    with pytest.raises(ValueError, match=f"^{message}"):
        TABLE.read(written, expected)
    assert written.keys() == before.keys()
    assert all(value is before[name] for name, value in written.items())


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        (["conv_in.weight"], {}, r"the weights lack conv_in.weight, of shape \(16, 3, 3, 3\)"),
        (["mid_block.attentions.0.to_k.bias"], {}, r"lack mid_block.attentions.0.to_k.bias, of shape \(32,\)"),
        ([], {"conv_out.bias": torch.zeros(4)}, r"conv_out.bias must have the shape \(3,\), got \(4,\)"),
        ([], {"class_embedding.weight": torch.zeros(4, 64)}, "class_embedding.weight has no place in this U-Net"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(drop, add, message):
    state = {key: value for key, value in UNet2DModel(**TINY).state_dict().items() if key not in drop} | add
    with pytest.raises(ValueError, match=message):
        unet_from_diffusers(TINY, state)
