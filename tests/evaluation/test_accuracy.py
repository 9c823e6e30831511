"""The classification accuracy score: real data, wrong labels, missing classes."""

import math

import pytest
import torch

from diffusion_book.data import Images
from diffusion_book.evaluation import Scores, accuracy, classification_accuracy_score, named_rightly
from diffusion_book.nn import ClassifierConfig

SMALL = ClassifierConfig(channels=4, features=16)


def score(x: torch.Tensor, y: torch.Tensor, test: Images, seeds=(0,), steps: int = 60) -> Scores:
    return classification_accuracy_score(x, y, test, seeds, steps, 64, 5e-3, SMALL)


def test_real_digits_are_the_ceiling(train, test):
    """And the same seed gives the same number, whatever was drawn before."""
    found = score(train.x, train.conditions["y"], test, seeds=(0, 1))
    assert found.mean > 0.7  # 60 small steps
    torch.rand(3)
    assert score(train.x, train.conditions["y"], test, seeds=(0, 1)) == found
    assert found.each[0] != found.each[1]
    assert found.mean == pytest.approx(sum(found.each) / 2)
    assert found.sd == pytest.approx(abs(found.each[0] - found.each[1]) / math.sqrt(2))


def test_labels_that_are_wrong_are_learnt_as_well(train, test):
    assert score(train.x, (train.conditions["y"] + 1) % 10, test).mean < 0.1


def test_dropped_classes_are_missed(train, test):
    keep = train.conditions["y"] < 5
    assert score(train.x[keep], train.conditions["y"][keep], test).mean == pytest.approx(0.5, abs=0.06)


def test_colour_and_other_numbers_of_classes(generator):
    x = torch.randn(200, 3, 8, 8, generator=generator).clamp(-1, 1) * 0.1
    y = torch.randint(3, (200,), generator=generator)
    x = (x + torch.tensor([-0.8, 0.0, 0.8])[y][:, None, None, None]).clamp(-1, 1)
    both = Images(x, {"y": y}, "patches/test")
    assert classification_accuracy_score(x, y, both, seeds=(0,), steps=30, batch_size=32).mean > 0.9


def test_accuracy_by_hand(classifier, test):
    few = Images(test.x[::25], {"y": test.conditions["y"][::25]}, "few")
    expected = [int(classifier(x[None]).argmax()) == int(y) for x, y in zip(few.x, few.conditions["y"])]
    assert named_rightly(classifier, few, batch_size=7).tolist() == expected
    assert accuracy(classifier, few, batch_size=7) == pytest.approx(sum(expected) / len(expected))


def test_bad_input_is_told(train, test, classifier):
    with pytest.raises(ValueError, match="one int64 label for each of the 3 samples"):
        classification_accuracy_score(train.x[:3], train.conditions["y"][:2], test)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 2, got 1"):
        classification_accuracy_score(train.x[:3], train.conditions["y"][:3], test, batch_size=1)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        classification_accuracy_score(train.x[:3], train.conditions["y"][:3].float(), test)
    with pytest.raises(ValueError, match=r"labels must be an int64 tensor \[N\], got list; use torch.tensor\(labels\)"):
        classification_accuracy_score(train.x[:3], [0, 1, 2], test)
    with pytest.raises(ValueError, match="has no labels"):
        classification_accuracy_score(train.x[:3], train.conditions["y"][:3], Images(test.x, {}, "bare"))
    with pytest.raises(ValueError, match="bare has no labels"):
        accuracy(classifier, Images(test.x, {}, "bare"))
    with pytest.raises(ValueError, match="no number"):
        classification_accuracy_score(train.x[:3], train.conditions["y"][:3], test, seeds=())
    assert math.isnan(Scores.of([1.0]).sd)
