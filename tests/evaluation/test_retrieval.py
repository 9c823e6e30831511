"""Retrieval: towers that know the answer find all of it, those that know nothing are at chance, and no tie is asked."""

import math

import pytest
import torch
from torch import nn

from diffusion_book import models
from diffusion_book.data import Scenes, captions
from diffusion_book.evaluation.retrieval import different, meaning, retrieval
from diffusion_book.models import Card, TrainedClip
from diffusion_book.nn import Clip, ClipConfig

CONFIG = ClipConfig(87, 16, channels=4, features=8, width=8, layers=1, heads=2, dim=8)


@pytest.fixture
def clip():
    torch.manual_seed(0)
    return TrainedClip(Clip(CONFIG).eval(), Card())


class Knows(nn.Module):
    """Towers in place of `Clip`'s that were told which picture has which caption; of every fourth they are wrong."""

    def __init__(self, data: Scenes, count: int) -> None:
        super().__init__()
        self.config = CONFIG
        x, told = data.take(torch.arange(count))
        self.vectors = torch.randn(count, 64, generator=torch.Generator().manual_seed(0))
        self.x, self.tokens, self.logit_scale = x, told["tokens"], nn.Parameter(torch.zeros(()))

    def image(self, x):
        return torch.stack([self.vectors[int((self.x - one).abs().flatten(1).sum(1).argmin())] for one in x])

    def text(self, tokens):
        numbers = [int((self.tokens == one).all(1).nonzero()[0]) for one in tokens]
        shifted = [number + (number % 4 == 0) for number in numbers]
        return type("Encoded", (), {"pooled": self.vectors[shifted]})


def test_what_is_known_is_found_and_what_is_wrong_is_not():
    """Captions whose number is a multiple of 4 have their neighbour's vector: so many are not found, either way."""
    data = Scenes("test", count=40)
    groups = list(different(data, 2, 16))
    found = retrieval(TrainedClip(Knows(data, 41 - 1), Card()), data, groups=2, among=16)
    right = [float((g % 4 != 0).double().mean()) for g in groups]
    assert found["picture of a caption"]["mean"] == pytest.approx(sum(right) / 2)
    assert found["caption of a picture"]["mean"] <= 1 - 4 / 16 + 1e-9
    assert found["chance"] == 1 / 16
    assert found["N"] == 32


def test_towers_that_learnt_nothing_are_at_chance(clip):
    """Within three standard errors of 1/16, those of a share of 160."""
    found = retrieval(clip, groups=10, among=16)
    for name in ("caption of a picture", "picture of a caption"):
        assert abs(found[name]["mean"] - 1 / 16) < 3 * math.sqrt(1 / 16 * 15 / 16 / 160), name


def test_no_two_captions_of_a_group_say_the_same():
    data = Scenes("test", count=10_000)
    for index in different(data, 3, 64):
        said = data.captions(index)
        assert len(set(said)) == len({meaning(captions.read(one)) for one in said}) == 64


def test_what_is_said_from_the_other_side_is_the_same():
    same = ("a big red cat left of a small blue key, on white", "a small blue key right of a big red cat, on white")
    first, second = (meaning(captions.read(one)) for one in same)
    assert first == second
    other = meaning(captions.read("a small blue key left of a big red cat, on white"))
    assert other != first


def test_too_few_captions_are_refused(clip):
    with pytest.raises(ValueError, match="scenes/test has no 2 more groups of 64 captions"):
        retrieval(clip, Scenes("test", count=70), groups=3)
    with pytest.raises(ValueError, match="groups must be a whole number of at least 2, got 1"):
        retrieval(clip, groups=1)


def test_a_clip_is_saved_and_called_in_one_line(clip, tmp_path):
    models.save(tmp_path / "it.safetensors", clip.network)
    found = models.load_clip(tmp_path / "it.safetensors")
    x, said = Scenes().take(torch.arange(3))[0], Scenes().captions(torch.arange(3))
    cosines = found.images(x) @ found.texts(said).mT
    assert cosines.shape == (3, 3)
    torch.testing.assert_close(found.images(x).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(found.texts(said), clip.texts(said), rtol=0.02, atol=0.02)  # half precision
    with pytest.raises(ValueError, match="a clip does not denoise; load a model such as 'mnist-unet'"):
        models.load(tmp_path / "it.safetensors")
    with pytest.raises(ValueError, match="is no clip, and compares no pictures with captions"):
        models.load_clip("mnist-unet")
    with pytest.raises(ValueError, match="unknown word 'dragon'"):
        found.texts(["a dragon"])
