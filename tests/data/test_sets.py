"""What the named sets are said to be, against what they are."""

from dataclasses import astuple

import pytest

from diffusion_book.data import DATASETS, describe, load


@pytest.mark.parametrize("name", DATASETS)
def test_every_named_set_is_described_in_full(name):
    card = describe(name)
    assert card.name == name
    assert all(value != "" for value in astuple(card))
    assert card.source.startswith("http")


def test_the_offline_set_is_what_its_card_says():
    card = describe("mnist-5k")
    train, test = load("mnist-5k"), load("mnist-5k", "test")
    assert (len(train), len(test)) == (card.train, card.test)
    assert train.x.shape[1:] == (card.channels, card.size, card.size)
    assert len(train.conditions["y"].unique()) == card.classes
    assert card.download == 0


@pytest.mark.parametrize(
    ("name", "advice"), [("mnits", "there is one of mnist-5k, "), ("folder:x", "only you can say")]
)
def test_what_is_not_described_is_refused(name, advice):
    with pytest.raises(ValueError, match=advice):
        describe(name)
