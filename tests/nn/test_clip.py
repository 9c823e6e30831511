"""CLIP in small, and the vision transformer: shapes, what the towers see, the limit of the scale, bad input."""

import math

import pytest
import torch

from diffusion_book.losses import contrastive_loss
from diffusion_book.nn import Clip, ClipConfig, ViT, ViTConfig, build, describe

CONFIG = ClipConfig(vocabulary=11, length=6, channels=4, features=8, width=16, layers=1, heads=2, dim=5)
TOKENS = torch.tensor([[3, 1, 10, 0, 0, 0], [2, 2, 4, 5, 1, 7]])


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Clip(CONFIG).eval()


def test_a_picture_and_a_caption_become_two_vectors(network, generator):
    x = 2 * torch.rand(2, 3, 16, 16, generator=generator) - 1
    images, texts, scale = network(x, TOKENS)
    assert images.shape == texts.shape == (2, 5)
    assert scale.item() == pytest.approx(1 / 0.07)
    assert torch.equal(images, network.image(x))
    words = network.text(TOKENS).context
    means = torch.stack([words[0, :3].mean(0), words[1].mean(0)])  # of the words, without what fills up
    torch.testing.assert_close(texts, means @ network.text.project.weight.mT)


def test_the_scale_stops_at_100_and_can_come_back(network):
    """Beyond it the parameter itself is set back: were it only cut on the way, no gradient would ever reach it."""
    with torch.no_grad():
        network.logit_scale.fill_(9.0)
    assert network.scale.item() == pytest.approx(100)
    assert network.logit_scale.item() == pytest.approx(math.log(100))
    network.scale.backward()
    assert network.logit_scale.grad.item() == pytest.approx(100)


def test_a_few_steps_find_out_what_belongs_together(generator):
    torch.manual_seed(0)
    network = Clip(CONFIG).train()
    tokens = torch.arange(1, 9)[:, None].expand(8, 6)
    x = (torch.arange(8.0) / 4 - 1)[:, None, None, None] + 0.05 * torch.randn(8, 3, 8, 8, generator=generator)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = contrastive_loss(*network(x.clamp(-1, 1), tokens)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert losses[-1] < 0.3


def test_it_is_built_from_its_description():
    described = {"kind": "clip", **{name: value for name, value in vars(CONFIG).items() if name != "words"}}
    network = build(described)
    assert isinstance(network, Clip)
    assert describe(network) == described
    with pytest.raises(ValueError, match="vocabulary must be a whole number of at least 1"):
        build({"kind": "clip"})
    with pytest.raises(ValueError, match="dim must be a whole number of at least 1, got 0"):
        ClipConfig(vocabulary=3, length=4, dim=0)
    with pytest.raises(ValueError, match="2 words are not the vocabulary of 3"):
        ClipConfig(vocabulary=3, length=4, words=("", "cat"))


# The vision transformer


VIT = ViTConfig(size=8, patch=4, width=8, layers=2, heads=2, image_channels=1)


def test_patches_are_where_they_are(generator):
    """One patch changed changes its own vector before any layer, and no other; behind the layers it changes all."""
    torch.manual_seed(0)
    vit = ViT(VIT).eval()
    x = torch.randn(1, 1, 8, 8, generator=generator)
    other = x.clone()
    other[..., :4, 4:] += 1
    changed = (vit(x, skip=2).context != vit(other, skip=2).context).any(-1)[0]
    assert changed.tolist() == [False, False, True, False, False]
    assert (vit(x).context != vit(other).context).any(-1).all()
    assert vit(x).pooled.shape == (1, 8)
    assert vit(x).mask.shape == (1, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 10, "patch": 4}, "size must be a multiple of patch = 4, got 10"),
        ({"width": 10, "heads": 4}, "width must be a multiple of heads = 4, got 10"),
        ({"activation": "relu"}, "unknown activation 'relu'"),
        ({"hidden": 0}, "hidden must be a whole number of at least 1, got 0"),
    ],
)
def test_a_bad_vision_transformer_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**{**vars(VIT), **options})


def test_bad_pictures_are_refused():
    vit = ViT(VIT)
    with pytest.raises(ValueError, match=r"pictures must be 8 pixels a side here, got \(12, 12\)"):
        vit(torch.zeros(1, 1, 12, 12))
    with pytest.raises(ValueError, match="skip must be a number of the 2 layers, got 3"):
        vit(torch.zeros(1, 1, 8, 8), skip=3)
