"""The zoo: every name has weights, and every card is of the file beside it."""

import hashlib
import math

import pytest
import torch

from diffusion_book import data, evaluation, models, schedules, zoo
from diffusion_book.evaluation.noisy import noisy_log_prob
from diffusion_book.evaluation.retrieval import retrieval
from diffusion_book.models import Card

CARDS = {name: Card.beside(zoo.weights(name)) for name in zoo.names()}
DENOISERS = [name for name, card in CARDS.items() if card.recipe.denoises]
DIGITS = [name for name in DENOISERS if name.startswith("mnist-")]


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match=r"unknown model 'mnist-une' \(did you mean 'mnist-unet'\?\); choose one of"):
        zoo.weights("mnist-une")
    with pytest.raises(ValueError, match=r"choose one of icons-unet, mnist-classifier, .*mnist-unet"):
        zoo.recipe("mnist-une")


@pytest.mark.parametrize("name", zoo.names())
def test_every_model_loads_and_its_card_says_how_it_was_made(name):
    card = models.load_any(name).card
    assert hashlib.sha256(zoo.weights(name).read_bytes()).hexdigest() == card.sha256
    for what in ("command", "seed", "hardware", "images_seen", "wall_time", "versions", "metrics", "recipe"):
        assert getattr(card, what) not in (None, "", {}), what


@pytest.mark.parametrize("name", [name for name in zoo.recipes() if name in zoo.names()])
def test_a_card_has_the_recipe_that_stands_in_the_zoo(name):
    from diffusion_book.training import RunConfig

    assert CARDS[name].recipe == RunConfig.from_file(zoo.recipe(name))


@pytest.mark.parametrize("name", DIGITS)
def test_every_model_of_digits_draws_something_like_ink_on_paper(name):
    """A few steps must end near the two values that digits have: most pixels black, a few white."""
    x0 = models.draw(name, [0, 1, 2, 3], range(4), steps=6)
    assert (x0 < -0.9).float().mean() > 0.5
    assert 0.03 < (x0 > 0).float().mean() < 0.35


def test_the_model_of_icons_draws_colours_on_white():
    """Asked for smileys, it fills the middle with yellow: much red and green, little blue; the corners stay white."""
    x0 = models.draw("icons-unet", 0, range(4), steps=10, guidance=2)
    red, green, blue = x0[:, :, 8:24, 8:24].mean(dim=(0, 2, 3)).tolist()
    assert min(red, green) > blue + 0.5
    assert x0[:, :, :4, :4].mean() > 0.9


@pytest.mark.parametrize("name", zoo.names())
def test_every_card_says_that_it_is_of_one_training_run(name):
    metrics = CARDS[name].metrics
    how = metrics["measured by"] if name in DENOISERS else metrics
    assert how["training runs"] == 1
    assert name not in DIGITS or how["seeds of sampling"] == len(metrics["FCD-MNIST"]["each"])


def test_the_classifiers_hashes_are_those_of_its_file_and_of_its_weights():
    """The reports and the other cards name the one of the weights."""
    card = CARDS["mnist-classifier"]
    assert card.sha256 == hashlib.sha256(zoo.weights("mnist-classifier").read_bytes()).hexdigest()
    found = evaluation.from_classifier(models.load_classifier("mnist-classifier").network, "mnist-classifier")
    assert card.weights_sha256 == found.sha256
    for name in DIGITS:
        how = CARDS[name].metrics["measured by"]
        assert how["extractor"] == f"mnist-classifier, SHA-256 {found.sha256}", name


def test_all_weights_together_are_small_enough_to_carry():
    assert sum(path.stat().st_size for path in zoo.WEIGHTS.glob("*")) < 72 * 10**6


def test_the_classifier_of_noise_knows_how_much_it_knows():
    """On digits with noise: what it says of the right class is, on average, as likely as it says. At σ = 16 it guesses.

    Digits of MNIST's training split, which it has seen; five standard errors of 500 shares are 0.11.
    """
    found = models.load_classifier("mnist-noisy-classifier")
    digits, generator = data.load("mnist-5k", "test"), torch.Generator().manual_seed(0)
    schedule = schedules.by_name(found.card.recipe.objective["schedule"], None)
    right = []
    for sigma in (0.3, 2.0, 16.0):
        t = schedule.time_at(-2 * math.log(sigma))
        log_p = noisy_log_prob(found.network, schedule, digits, t, generator)
        said = log_p.argmax(1)
        right.append((said == digits.conditions["y"]).double().mean().item())
        assert abs(right[-1] - log_p.exp().amax(1).mean().item()) < 0.11, sigma
    assert right[0] > 0.95
    assert right[0] > right[1] > right[2]
    by_noise = found.card.metrics["accuracy by noise"]
    assert abs(by_noise["2"]["accuracy"] - right[1]) < 0.11


def test_the_clip_finds_the_caption_of_a_picture():
    """Among 64 in two groups: within five standard errors of one group's share of what its card says, or better."""
    clip = models.load_clip("scenes-clip")
    found = retrieval(clip, groups=2)
    for name in ("caption of a picture", "picture of a caption"):
        stated = clip.card.metrics[name]["mean"]
        assert stated >= 0.95
        assert found[name]["mean"] >= stated - 5 * (stated * (1 - stated) / 128) ** 0.5 - 1e-9
