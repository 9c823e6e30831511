"""The network that reads: it is asked what the layouts answer, and learns it."""

import functools

import pytest
import torch

from diffusion_book import models
from diffusion_book.data import Scenes
from diffusion_book.evaluation import reader
from diffusion_book.evaluation.judge import by_sprites, judge, shares

INDEX = torch.arange(200)


def knowing(layout) -> torch.nn.Module:
    """A network that says the right answers, whatever it is shown."""
    right = reader.answers(layout)
    parts = [
        torch.nn.functional.one_hot(right[name].clamp(min=0), n).float() * 9 for name, n in reader.QUESTIONS.items()
    ]

    class Knowing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat(parts, dim=1)

    return Knowing()


@pytest.mark.parametrize("split", ["test", "objects"])
def test_the_right_answers_are_those_of_the_captions(split):
    data = Scenes(split)
    look = functools.partial(reader.look, knowing(data.layout(INDEX)))
    found = shares(judge(data.take(INDEX)[0], data.captions(INDEX), look))
    assert set(found.values()) == {1.0}
    shifted = data.captions(INDEX[1:]) + data.captions(INDEX[:1])
    assert shares(judge(data.take(INDEX)[0], shifted, look))["all"] < 0.05


def test_the_answers_are_what_the_sprites_say():
    """In the order of places, two of the same object and tint included."""
    data = Scenes("test")
    x = data.take(INDEX)[0]
    for ours, theirs in zip(by_sprites(x), reader.look(knowing(data.layout(INDEX)), x)):
        places = [(seen.x, seen.y) for seen in ours.seen]
        along = 0 if len(places) == 2 and abs(places[0][0] - places[1][0]) > abs(places[0][1] - places[1][1]) else 1
        in_order = sorted(ours.seen, key=lambda seen: (seen.x, seen.y)[along])
        assert [seen.thing for seen in in_order] == [seen.thing for seen in theirs.seen]


def test_what_is_not_there_is_not_asked():
    layout = Scenes().layout(INDEX)
    alone = torch.from_numpy(layout.kind == 0)
    right = reader.answers(layout)
    for name in ("object1", "tint1", "size1"):
        assert torch.equal(right[name] < 0, alone)
    logits = torch.zeros(len(INDEX), sum(reader.QUESTIONS.values()), requires_grad=True)
    reader.error(logits, right).backward()
    second = dict(zip(reader.QUESTIONS, logits.grad.split(list(reader.QUESTIONS.values()), dim=1)))["object1"]
    assert not second[alone].any()
    assert second[~alone].any(1).all()


def test_it_learns_grounds_and_numbers_in_a_few_steps_and_the_same_from_its_seed():
    before = torch.get_rng_state()
    network = reader.train(steps=40, batch_size=32, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    data = Scenes("test")
    found = shares(judge(data.take(INDEX)[0], data.captions(INDEX), functools.partial(reader.look, network)))
    assert found["ground"] > 0.7  # by guessing: 1/6
    for a, b in zip(network.parameters(), reader.train(steps=40, batch_size=32, seed=1).parameters()):
        assert torch.equal(a, b)


def test_its_weights_are_a_classifiers(tmp_path):
    models.save(tmp_path / "reader.safetensors", reader.network())
    assert models.load_classifier(tmp_path / "reader.safetensors").network.config == reader.network().config


def test_pictures_are_spoilt_a_little():
    x = Scenes("test").take(INDEX)[0]
    spoilt = reader.spoilt(x, torch.Generator().manual_seed(0))
    assert 0.01 < (spoilt - x).square().mean().sqrt() < 0.4
    assert spoilt.abs().max() <= 1
    flat = reader.spoilt(torch.full((64, 3, 32, 32), 0.25), torch.Generator().manual_seed(0))
    strength = flat.std((1, 2, 3))
    assert strength.max() <= 1.05 * reader.NOISE
    assert abs(strength.mean() - reader.NOISE / 2) < 4 * reader.NOISE / (12 * 64) ** 0.5
