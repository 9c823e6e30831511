"""Cards: each that is committed comes back whole, and what is none is told."""

import json

import pytest
import torch

from diffusion_book import zoo
from diffusion_book.models import Card, card
from diffusion_book.training import RunConfig


@pytest.mark.parametrize("name", zoo.names())
def test_a_committed_card_loses_nothing(name):
    text = zoo.weights(name).with_suffix(".json").read_text("utf8")
    committed, again = json.loads(text), json.loads(Card.from_json(text).to_json())
    assert RunConfig.from_dict(again.pop("recipe")) == RunConfig.from_dict(committed.pop("recipe"))
    assert again == committed


def test_an_empty_card_says_nothing():
    assert Card().to_json() == "{}\n"
    assert Card.from_json("{}") == Card()
    assert (Card().accuracy, Card().best_guidance) == (None, None)


def test_what_counts_as_known_is_kept_even_where_it_is_zero():
    assert json.loads(Card(seed=0, step=0).to_json()) == {"seed": 0, "step": 0}


def test_the_best_guidance_is_that_of_the_study():
    found = Card.beside(zoo.weights("mnist-unet"))
    best = found.studies[card.GUIDANCE]["best"]
    assert found.best_guidance == (best["w"], tuple(best["interval"]))


def test_a_recipe_of_another_version_is_told(tmp_path):
    weights = tmp_path / "m.safetensors"
    weights.with_suffix(".json").write_text('{"sha256": "5", "recipe": {"setps": 3}}')
    with pytest.raises(
        ValueError, match=r"m.json, the card of m.safetensors, cannot be read \(.* did you mean 'steps'"
    ):
        Card.beside(weights)


def test_the_hardware_of_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert next(iter(card.hardware(torch.device("cuda")).items())) == ("gpu", "a GPU")
    assert set(card.hardware(torch.device("cpu"))) == {"cpu", "threads"}
