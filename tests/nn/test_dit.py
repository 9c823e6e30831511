"""The DiT against that of diffusers, the sizes of the paper, and what must hold."""

from dataclasses import replace

import pytest
import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import PatchEmbed

from diffusion_book.nn import DIT_SIZES, DiT, DiTConfig
from diffusion_book.nn.dit import DiTBlock, patchify, positions, unpatchify

TINY = DIT_SIZES["tiny"]
CLASSES = replace(TINY, classes=10)
T4 = torch.tensor([1, 250, 700, 1000])
Y4 = torch.tensor([0, 3, 9, 10])


@pytest.mark.parametrize(
    ("size", "millions"), [("S/2", 33), ("B/2", 130), ("L/2", 458), ("XL/2", 675), ("S/8", 33), ("B/4", 130)]
)
def test_parameters_are_as_many_as_published(size, millions):
    """Peebles and Xie 2023, table 4, in which patches change next to nothing."""
    with torch.device("meta"):
        count = sum(p.numel() for p in DiT(DiTConfig.named(size)).parameters())
    assert round(count / 1e6) == pytest.approx(millions, abs=0 if size.endswith("/2") else 1)


@pytest.mark.parametrize("learned_variance", [False, True])
def test_it_is_the_dit_of_diffusers(learned_variance, generator, randomised):
    config = replace(CLASSES, image_channels=3, learned_variance=learned_variance)
    ours = randomised(DiT(config))
    theirs = DiTTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        in_channels=3,
        out_channels=config.out_channels,
        num_layers=config.depth,
        sample_size=8,
        patch_size=config.patch,
        num_embeds_ada_norm=config.classes,
        norm_eps=1e-6,
    ).eval()
    theirs.load_state_dict(as_diffusers(ours), strict=False)
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # as in the paper's code; theirs has 1
    x = torch.randn(4, 3, 8, 8, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, T4, Y4), theirs(x, T4, class_labels=Y4).sample, rtol=1e-4, atol=1e-5)


def as_diffusers(network: DiT) -> dict[str, torch.Tensor]:
    """Our weights under their names; every block of theirs has an embedding of its own."""
    config, state, theirs = network.config, network.state_dict(), {}
    D, p = config.width, config.patch
    for i in range(config.depth):
        names = {
            f"blocks.{i}.modulation": "norm1.linear",
            f"blocks.{i}.out": "attn1.to_out.0",
            f"blocks.{i}.mlp.0": "ff.net.0.proj",
            f"blocks.{i}.mlp.2": "ff.net.2",
            "embed_time.layers.0": "norm1.emb.timestep_embedder.linear_1",
            "embed_time.layers.2": "norm1.emb.timestep_embedder.linear_2",
        }
        block = f"transformer_blocks.{i}"
        for kind in ("weight", "bias"):
            theirs |= {f"{block}.{b}.{kind}": state[f"{a}.{kind}"] for a, b in names.items()}
            for part, value in zip(("to_q", "to_k", "to_v"), state[f"blocks.{i}.qkv.{kind}"].chunk(3)):
                theirs[f"{block}.attn1.{part}.{kind}"] = value
        theirs[f"{block}.norm1.emb.class_embedder.embedding_table.weight"] = state["embed_class.weight"]
    theirs["pos_embed.proj.weight"] = state["stem.weight"].reshape(D, -1, p, p)
    theirs["pos_embed.proj.bias"] = state["stem.bias"]
    for kind in ("weight", "bias"):
        theirs[f"proj_out_1.{kind}"] = state[f"modulation.{kind}"]
        # Ours orders a patch's numbers channel by channel, theirs pixel by pixel.
        head = state[f"head.{kind}"]
        theirs[f"proj_out_2.{kind}"] = head.unflatten(0, (-1, p * p)).transpose(0, 1).flatten(0, 1)
    return theirs


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 3)])
def test_positions_are_those_of_diffusers(rows, columns):
    theirs = PatchEmbed(height=4, width=4, patch_size=1, embed_dim=32).pos_embed.reshape(4, 4, 32)
    ours = positions(rows, columns, 32).reshape(rows, columns, 32)
    torch.testing.assert_close(ours, theirs[:rows, :columns].to(ours), rtol=0, atol=1e-6)


def test_patches_go_and_come_back(generator):
    x = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    tokens = patchify(x, 2)
    assert tokens.shape == (1, 6, 8)
    assert torch.equal(tokens[0, 1], x[0, :, 0:2, 2:4].flatten())
    assert torch.equal(unpatchify(tokens, 2, 3, 2), x)


def test_it_starts_at_zero_and_every_block_at_the_identity(generator):
    x = torch.randn(4, 1, 8, 12, generator=generator)
    out = DiT(CLASSES)(x, T4, Y4)
    assert out.shape == x.shape
    assert not out.any()
    tokens = torch.randn(2, 5, 32, generator=generator)
    block = DiTBlock(32, 2, 4)
    torch.nn.init.zeros_(block.modulation.weight)
    torch.nn.init.zeros_(block.modulation.bias)
    assert torch.equal(block(tokens, torch.randn(2, 32, generator=generator)), tokens)


def test_after_three_steps_from_zero_every_parameter_gets_a_gradient(generator):
    network, x = DiT(CLASSES), torch.randn(4, 1, 8, 8, generator=generator)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    for step in range(4):  # zero layers open one behind the other
        optimiser.zero_grad()
        (network(x, T4, Y4) - x).square().mean().backward()
        if step < 3:
            optimiser.step()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_time_label_and_place_matter_and_examples_do_not_see_each_other(generator, randomised):
    network, x = randomised(DiT(CLASSES)), torch.randn(4, 1, 8, 8, generator=generator)
    out = network(x, T4, Y4)
    assert not torch.allclose(out, network(x, T4.flip(0), Y4))
    assert not torch.allclose(out, network(x, T4, Y4.flip(0)))
    assert not torch.allclose(out.flip(3), network(x.flip(3), T4, Y4))
    assert torch.equal(network(x, T4), network(x, T4, torch.full((4,), 10)))
    alone = torch.cat([network(x[i : i + 1], T4[i : i + 1], Y4[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(out, alone, rtol=1e-4, atol=1e-5)


def test_checkpointing_gives_the_same_gradients_and_computes_twice(generator, randomised):
    x, runs, gradients = torch.randn(4, 1, 8, 8, generator=generator), [], []
    state = randomised(DiT(CLASSES)).state_dict()
    for checkpoint in (False, True):
        network = DiT(replace(CLASSES, checkpoint=checkpoint))
        network.load_state_dict(state)
        count = []
        network.blocks[1].norm1.register_forward_hook(lambda *_, count=count: count.append(1))
        network(x, T4, Y4).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
        runs.append(len(count))
    assert runs == [1, 2]
    for without, with_ in zip(*gradients):
        torch.testing.assert_close(with_, without, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "side"), [("tiny", 28), ("digits", 28), ("B/4", 32), ("S/2", 32)])
def test_the_named_sizes_fit_the_images_they_are_for(name, side):
    config = DiTConfig.named(name)
    with torch.device("meta"):
        x = torch.zeros(2, config.image_channels, side, side)
        out = DiT(config)(x, torch.ones(2, dtype=torch.long))
    assert out.shape == (2, config.out_channels, side, side)
    assert DiTConfig.named(name, classes=7) == replace(config, classes=7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 33}, "multiple of heads = 2, and of 4 .* got 33"),
        ({"heads": 5}, "multiple of heads = 5, and of 4 .* got 32"),
        *(
            ({name: value}, f"^{name} must be a whole number of at least 1, got {value}$")
            for name in ("image_channels", "width", "depth", "heads", "patch", "mlp_ratio")
            for value in (0, -4, 1.5)
        ),
        *(({"classes": value}, f"^classes must be a whole number of at least 0, got {value}$") for value in (-1, 1.5)),
    ],
)
def test_a_bad_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_an_unknown_size_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match=r"unknown DiT size 'M/2' .*; choose one of tiny, digits, S/2, S/4"):
        DiTConfig.named("M/2")


@pytest.mark.parametrize(
    ("config", "x", "t", "y", "message"),
    [
        (TINY, torch.zeros(2, 3, 8, 8), [1, 2], None, r"expected images \[B, 1, H, W\], got shape \(2, 3, 8, 8\)"),
        (
            TINY,
            torch.zeros(2, 1, 8, 8).long(),
            [1, 2],
            None,
            "images must be floating point, got torch.int64; use .flo",
        ),
        (TINY, torch.zeros(2, 1, 8, 7), [1, 2], None, "sides must be multiples of the patch, 2, got 8×7; pad"),
        (TINY, torch.zeros(2, 1, 8, 8), [1], None, r"one time for each of the 2 images, got shape \(1,\)"),
        (TINY, torch.zeros(2, 1, 8, 8), [1, 2], [0, 1], r"no classes \(classes=0\), so it takes no labels y"),
        (CLASSES, torch.zeros(2, 1, 8, 8), [1, 2], [0], r"one label for each of the 2 examples, got shape \(1,\)"),
        (CLASSES, torch.zeros(2, 1, 8, 8), [1, 2], [0, 11], r"labels must lie in 0 … 10 .*, got 0 … 11"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(config, x, t, y, message):
    with pytest.raises(ValueError, match=message):
        DiT(config)(x, torch.tensor(t), None if y is None else torch.tensor(y))


@pytest.mark.parametrize("t", [5, None])
def test_a_time_that_is_no_tensor_is_refused(t):
    with pytest.raises(ValueError, match=rf"one time for each of the 2 images, got {t}; pass a tensor \[2\]"):
        DiT(TINY)(torch.zeros(2, 1, 8, 8), t)
