"""What a wrong word costs: nothing where nothing is heard, and the known difference where one word is."""

import dataclasses

import pytest
import torch
from torch import nn

from diffusion_book import models, schedules
from diffusion_book.data import Scenes, captions
from diffusion_book.data.captions import read
from diffusion_book.evaluation.heard import CHANGES, heard
from diffusion_book.models.conditioner import Captions

DATA = Scenes("test", count=200)


class Hears(nn.Module):
    """Outputs its strength at every pixel where the caption says pink, and hears nothing else."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, x, t, tokens=None):
        pink = (tokens == captions.NUMBERS["pink"]).any(1).to(x)
        return self.strength * pink[:, None, None, None] + torch.zeros_like(x)


def model(strength: float) -> models.Model:
    return models.Model(Hears(strength), schedules.cosine(), "x0", (3, 32, 32), Captions())


def test_who_hears_nothing_has_no_gap():
    for by_noise in heard(model(0.0), 12, (1.0, 4.0), data=DATA).values():
        assert by_noise.keys() == {"1", "4"}
        assert all(found == {"gap": 0.0, "standard error": 0.0} for found in by_noise.values())


def test_a_word_that_is_heard_costs_what_it_changes():
    """x̂0 is s where the caption says pink, else 0, so each loss is the mean of (x0 − s)² or of x0², without any noise:
    the gap of all captions without a word is the known one, and that of words that are not heard none."""
    s, count = 0.5, 24
    found = heard(model(s), count, (2.0,), data=DATA)
    x0, told = DATA.take(torch.arange(count))
    pink = (told["tokens"] == captions.NUMBERS["pink"]).any(1)
    with_pink, without = ((x0.double() - shift).square().flatten(1).mean(1) for shift in (s, 0.0))
    expected = torch.where(pink, without - with_pink, 0.0)
    assert pink.any()
    assert found["everything"]["2"]["gap"] == pytest.approx(float(expected.mean()), abs=1e-5)
    assert found["everything"]["2"]["standard error"] == pytest.approx(float(expected.std() / count**0.5), abs=1e-5)
    assert found["tint"]["2"]["gap"] == found["object"]["2"]["gap"] == 0
    assert found["ground"]["2"]["gap"] != 0


def test_one_word_is_exchanged_and_the_sentence_stays_one(generator):
    for caption in DATA.captions(torch.arange(60)):
        scene = read(caption)
        for name, change in CHANGES.items():
            changed = change(scene, generator)
            if changed is None:
                assert (name, scene.relation is None) in (("relation", True), ("count", False))
                continue
            other = captions.write(changed)
            assert read(other) == changed != scene
            words, others = caption.replace(",", "").split(), other.replace(",", "").split()
            if name not in ("count", "object"):  # a plural, and "a" or "two", go with the number of cats
                assert len(words) == len(others)
                assert sum(a != b for a, b in zip(words, others)) == 1


def test_it_is_the_same_for_every_model_and_seed_by_seed():
    both = [heard(model(0.5), 12, (1.0,), seed=seed, data=DATA) for seed in (0, 0, 1)]
    assert both[0] == both[1]
    assert both[0] != both[2]


def test_a_model_that_reads_nothing_is_refused():
    silent = dataclasses.replace(model(0.0), conditioner=Captions(dropped=False))
    for asked in (silent, models.load("mnist-unet")):
        with pytest.raises(ValueError, match="a model that reads captions, and may be told nothing"):
            heard(asked)
