"""A model: what it is told, how it is guided, and what it refuses because it was never trained for it."""

import dataclasses
import math

import pytest
import torch

from diffusion_book import models, nn, schedules
from diffusion_book.models import Card, Guidance, Labels, Model
from diffusion_book.training import RunConfig

SCHEDULE = schedules.cosine(50)
RECIPE = RunConfig(data="mnist-5k", objective={"condition_dropout": 0.1})


def tiny(seed=0, card=Card(recipe=RECIPE), size=8, **config) -> Model:  # noqa: B008
    """A network that was never trained, but whose every weight matters."""
    options = {"channels": 8, "channel_mults": (1,), "attention_levels": (), "groups": 4, "classes": 3, **config}
    torch.manual_seed(seed)
    network = nn.UNet(nn.UNetConfig(**options))
    for parameter in network.parameters():  # the last layer begins at zero, which would hide every difference
        torch.nn.init.normal_(parameter, std=0.2)
    return Model.of(network.eval().requires_grad_(False), SCHEDULE, "v", card, size)


def asked(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 1, 8, 8, generator=generator), torch.full((4,), 20)


Y = {"y": torch.tensor([0, 1, 2, 0])}


def test_guidance_extrapolates_from_nothing_to_the_label(generator):
    model, (xt, t) = tiny(), asked(generator)
    conditional = model.denoiser(Y, clip=False)(xt, t)
    unconditional = model.denoiser(clip=False)(xt, t)
    assert not torch.allclose(conditional, unconditional, atol=1e-3)
    guided = model.denoiser(Y, 2.0, clip=False)(xt, t)
    torch.testing.assert_close(guided, unconditional + 2 * (conditional - unconditional), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.denoiser(Y, 2.0)(xt, t), guided.clamp(-1, 1), atol=1e-4, rtol=1e-4)


def test_guidance_acts_in_its_interval_and_away_from_its_bad_model(generator):
    good, bad, (xt, t) = tiny(), tiny(seed=1), asked(generator)
    sigma = float(SCHEDULE.at(t).sigma[0])
    plain, free = good.denoiser(Y)(xt, t), good.denoiser(Y, 2.0)(xt, t)
    for interval, expected in {(0.0, sigma): free, (sigma, math.inf): plain, (0.5 * sigma, 2 * sigma): free}.items():
        assert torch.equal(good.denoiser(Y, Guidance(2.0, interval))(xt, t), expected)
    x, z = good.denoiser(Y, clip=False)(xt, t), bad.denoiser(Y, clip=False)(xt, t)
    assert torch.allclose(good.denoiser(Y, Guidance(2.0, bad=bad))(xt, t), (z + 2 * (x - z)).clamp(-1, 1), atol=1e-5)


def test_guidance_asks_for_what_it_needs():
    with pytest.raises(ValueError, match="guidance needs labels: got w = 2"):
        tiny().denoiser(guidance=2)
    with pytest.raises(ValueError, match=r"also trained without labels \(condition_dropout above 0\)"):
        tiny(classes=0).denoiser(Y, 2)
    flow = dataclasses.replace(tiny(), schedule=schedules.Flow())
    with pytest.raises(ValueError, match="both models must denoise on one schedule"):
        tiny().denoiser(Y, Guidance(2, bad=flow))


@pytest.mark.parametrize("options", [{"interval": (0.6, 9.0)}, {"bad": "worse"}])
def test_a_guidance_that_would_ask_for_nothing_is_refused(options):
    with pytest.raises(ValueError, match="give --guidance above 1, such as 2"):
        Guidance(1.0, **options)


# What a network never learned ----------------------------------------------------------------------------------

NEVER = Card(recipe=dataclasses.replace(RECIPE, objective={}))


@pytest.mark.parametrize("model", [tiny(card=NEVER), tiny(no_label=False)], ids=["dropped none", "no vector"])
def test_a_model_that_was_always_told_a_class_does_not_draw_without(model):
    """Its vector of "no label" is bit for bit the random start: the pictures would look trained, and be none."""
    for wrong in (lambda: model.denoiser(), lambda: models.draw(model, None, [0], steps=1)):
        with pytest.raises(
            ValueError, match=r"this model needs a class, 0 … 2; say which with --class \(it was trained"
        ):
            wrong()
    for wrong in (lambda: model.denoiser(Y, 3.0), lambda: models.draw(model, 1, [0], steps=1, guidance=3.0)):
        with pytest.raises(ValueError, match="guidance needs a network that was also trained without labels"):
            wrong()
    assert models.draw(model, 1, [0], steps=1).shape == (1, 1, 8, 8)


def test_a_model_always_told_a_class_may_be_guided_away_from_a_worse_one():
    guided = models.draw(tiny(card=NEVER), 1, [0], steps=2, guidance=Guidance(2.0, bad=tiny(seed=1, card=NEVER)))
    assert torch.isfinite(guided).all()


def test_a_model_without_a_card_is_taken_at_its_word():
    assert tiny(card=Card()).conditioner == Labels(3, dropped=True)


# Labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(2, [2, 2, 2]), ([0, 1], [0, 1, 0]), (range(3), [0, 1, 2]), (torch.tensor([2, 0, 1]), [2, 0, 1])],
)
def test_classes_come_in_turn(wanted, expected):
    found = Labels(3).conditions(wanted, 3)["y"]
    assert (found.tolist(), found.dtype) == (expected, torch.int64)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (3, "this model knows the classes 0 … 2, got 3"),
        ([1, -1], "this model knows the classes 0 … 2, got -1"),
        (1.0, "classes are whole numbers, one or several, such as 7 or \\[0, 1, 2\\]; got 1.0"),
        ([True], "classes are whole numbers"),
        ([], "classes are whole numbers"),
        ({7}, "classes are whole numbers, .* got \\{7"),
        ("cat", "a class is a whole number, or several between commas, got 'cat'"),
        ([0, 1, 2, 0], "got 4 classes for 3 pictures; give as many seeds, or fewer classes"),
    ],
)
def test_what_is_no_class_is_told(wanted, message):
    with pytest.raises(ValueError, match=message):
        Labels(3).conditions(wanted, 3)


def test_classes_that_have_names_are_called_by_them():
    """Those of a folder's subfolders, or of a data set."""
    recipe = dataclasses.replace(RECIPE, data="folder:pets", labels="folders", class_names=("cat", "dog", "fish"))
    found = tiny(card=Card(recipe=recipe)).conditioner
    assert found.conditions(["dog", 0, "fish"], 3)["y"].tolist() == [1, 0, 2]
    assert found.conditions("dog", 2)["y"].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"unknown class 'fsh' \(did you mean 'fish'\?\); choose one of cat"):
        found.conditions("fsh", 1)
    icons = tiny(card=Card(recipe=dataclasses.replace(RECIPE, data="icons")), classes=10).conditioner
    assert icons.conditions("animals", 1)["y"].tolist() == [2]


def test_a_model_without_classes_can_be_told_nothing_alone():
    assert Labels(0).conditions(None, 4) == {}
    assert Labels(0).nothing == {}
    with pytest.raises(ValueError, match="this model was trained without classes; leave --class out"):
        Labels(0).conditions(1, 4)
