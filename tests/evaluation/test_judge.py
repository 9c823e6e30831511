"""The judge reads what was drawn, also where it is blurred, and says of everything else what is wrong with it."""

import pytest
import torch
from torch.nn import functional as F

from diffusion_book.data import Scenes, captions, scenes
from diffusion_book.data.captions import Scene, Thing
from diffusion_book.evaluation import judge
from diffusion_book.evaluation.judge import QUESTIONS, Reading, Seen, by_sprites, shares, verdict

INDEX = torch.arange(48)


def blurred(x: torch.Tensor, std: float) -> torch.Tensor:
    """By a Gaussian of this standard deviation in pixels."""
    place = torch.arange(-3, 4)
    line = (-(place**2) / (2 * std**2)).exp()
    kernel = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 7, 7)
    return F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), kernel, groups=3)


@pytest.mark.parametrize("split", ["test", "pairs", "objects", "tints"])
def test_it_reads_every_real_picture_rightly(split):
    data = Scenes(split)
    found = shares(judge.judge(data.take(INDEX)[0], data.captions(INDEX)))
    assert found == dict.fromkeys((*QUESTIONS, "all"), 1.0)


def test_it_reads_larger_pictures_at_half_their_size():
    data = Scenes("test", size=64)
    assert shares(judge.judge(data.take(INDEX)[0], data.captions(INDEX)))["all"] == 1


def test_it_reads_blurred_and_noisy_pictures_nearly_as_well():
    data = Scenes("test")
    x = blurred(data.take(INDEX)[0], 0.7)
    x = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    assert shares(judge.judge(x, data.captions(INDEX)))["all"] >= 0.95


def test_it_sees_where_objects_are():
    layout = Scenes("test").layout(INDEX)
    readings = by_sprites(Scenes("test").take(INDEX)[0])
    for k, reading in enumerate(readings):
        sides = scenes.sides(32)
        places = {
            (left + sides[size] / 2, top + sides[size] / 2)
            for left, top, size in zip(layout.left[k], layout.top[k], layout.sizes[k])
            if size != scenes.NOTHING
        }
        assert {(seen.x, seen.y) for seen in reading.seen} == places


def test_other_captions_are_wrong_where_they_differ():
    data = Scenes("test")
    index = torch.arange(200)
    said = data.captions(index)
    there = scenes.described(data.layout(index))
    pictures = data.take(index)[0][:20]
    for shift in (1, 2):
        verdicts = judge.judge(pictures, said[shift : 20 + shift])
        for shown, asked, answers in zip(there, there[shift:], verdicts):
            assert answers["count"] == (shown.count == asked.count)
            assert answers["ground"] == (shown.ground == asked.ground)
            if len(shown.things) == len(asked.things) and shown.count == asked.count:
                objects = sorted(thing.object for thing in shown.things), sorted(t.object for t in asked.things)
                assert answers["object"] == (objects[0] == objects[1])
            assert answers["all"] == (shown == asked)


CAT, DUCK = Thing("cat", "red", "small"), Thing("duck", "blue", "big")
ASKED = Scene((CAT, DUCK), "left of", 2, "white")


def reading(*things: Thing, ground: str = "white", across: bool = True) -> Reading:
    """Things from left to right, or from top to bottom."""
    places = [(6.0 + 15 * i, 16.0)[:: 1 if across else -1] for i in range(len(things))]
    return Reading(tuple(Seen(thing, x, y) for thing, (x, y) in zip(things, places)), ground)


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (reading(CAT, DUCK), []),
        (Reading(reading(CAT, DUCK).seen[::-1], "white"), []),  # whichever was seen first
        (reading(CAT, DUCK, ground="pink"), ["ground"]),
        (reading(DUCK, CAT), ["relation"]),
        (reading(CAT, DUCK, across=False), ["relation"]),
        (reading(Thing("cat", "blue", "small"), Thing("duck", "red", "big")), ["tint"]),
        (reading(Thing("cat", "red", "big"), DUCK), ["size"]),
        (reading(Thing("crab", "red", "small"), DUCK), ["object"]),
        (reading(CAT), ["count", "object", "tint", "size", "relation"]),
        (reading(), ["count", "object", "tint", "size", "relation"]),
        (reading(CAT, DUCK, Thing("key", "red", "small")), ["count"]),
    ],
)
def test_a_verdict_names_what_is_wrong(found, wrong):
    answers = verdict(found, ASKED)
    assert {name for name, right in answers.items() if not right} == {*wrong, *(["all"] if wrong else [])}
    assert answers.keys() == {*QUESTIONS, "all"}


def test_two_alike_may_stand_in_either_order_and_one_that_is_the_same_in_all_is_in_the_relation_that_is_true():
    assert verdict(reading(CAT, CAT), captions.read("two small red cats, on white"))["all"]
    assert not verdict(reading(CAT), captions.read("two small red cats, on white"))["all"]
    for relation in ("left of", "right of"):
        assert verdict(reading(CAT, CAT), captions.read(f"a small red cat {relation} a small red cat"))["all"]
    assert not verdict(reading(CAT, CAT), captions.read("a small red cat above a small red cat"))["all"]


def test_what_is_not_said_is_not_judged():
    answers = verdict(reading(CAT, ground="pink"), captions.read("a cat"))
    assert answers == {"count": True, "object": True, "all": True}
    assert shares([answers, verdict(reading(CAT), captions.read("a blue cat"))]) == {
        "count": 1.0,
        "object": 1.0,
        "tint": 0.0,
        "all": 0.5,
    }


def test_noise_and_an_empty_ground_show_nothing():
    grey = 0xA0 / 127.5 - 1
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noisy, empty = (grey + 0.5 * noise).clamp(-1, 1), torch.ones(1, 3, 32, 32)
    for found in by_sprites(torch.cat([noisy, empty])):
        assert found.seen == ()
    assert by_sprites(empty)[0].ground == "white"


def test_what_cannot_be_judged_is_refused():
    x = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match="one caption for each of the 2 pictures"):
        judge.judge(x, ["a cat"])
    with pytest.raises(ValueError, match="is no caption of these pictures"):
        judge.judge(x, ["a cat", "cats and dogs"])
    with pytest.raises(ValueError, match=r"expected pictures \[K, 3, H, W\].*got shape \(2, 3, 32, 30\)"):
        by_sprites(x[..., 2:])
    with pytest.raises(ValueError, match="images must lie in"):
        by_sprites(x + 2)


def test_a_model_is_judged_by_what_it_draws_after_its_captions(monkeypatch):
    """A painter that copies the pictures of the captions is right in all; one that mixes them up is not."""
    pictures = Scenes("pairs").take(INDEX)[0]

    def copies(model, said, seeds, **options):
        assert list(said) == Scenes("pairs").captions(INDEX)
        assert (list(seeds), options) == (INDEX.tolist(), {"steps": 7, "guidance": 3})
        return pictures if model == "right" else pictures.flip(0)

    monkeypatch.setattr("diffusion_book.evaluation.judge.draw", copies)
    asked = {"split": "pairs", "count": len(INDEX), "guidance": 3, "steps": 7}
    assert judge.judge_model("right", **asked)["all"] == 1
    assert judge.judge_model("wrong", **asked)["all"] < 0.2


def test_a_model_that_does_not_read_is_not_judged():
    with pytest.raises(ValueError, match="unknown class"):
        judge.judge_model("icons-unet", count=2, steps=1)
