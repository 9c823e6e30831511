"""Models that read: from a caption to what the network is told, to pictures, by the same calls as with classes."""

import dataclasses

import pytest
import torch

from _support.networks import randomised
from diffusion_book import models
from diffusion_book.data import Scenes, captions, load
from diffusion_book.models import trainer_of
from diffusion_book.models.conditioner import Captions, Labels
from diffusion_book.nn import build
from diffusion_book.training import RunConfig
from diffusion_book.training.config import build_network, build_objective

SAID = "a small red cat, on yellow"
NETWORK = {"kind": "text-unet", "size": "tiny", "patch": 2, "context_dim": 16, "pooled_dim": 16}
NETWORK |= {"vocabulary": len(captions.WORDS), "length": captions.LONGEST}
RECIPE = RunConfig(
    data="scenes",
    steps=4,
    batch_size=4,
    warmup=1,
    preview_every=0,
    log_every=2,
    checkpoint_every=2,
    network=NETWORK,
    objective={"kind": "denoising", "schedule": "continuous-cosine", "times": "late", "condition_dropout": 0.1},
)


def tiny(dropout: float = 0.1) -> models.Model:
    """A model that reads, with weights that have learnt nothing."""
    recipe = dataclasses.replace(RECIPE, objective={**RECIPE.objective, "condition_dropout": dropout})
    network = randomised(build({**NETWORK, "image_channels": 3}))
    return models.Model.of(network, recipe.denoising.build_schedule(), "v", models.Card(recipe=recipe))


# What is said


def test_one_caption_is_for_all_and_several_come_in_turn():
    conditioner = Captions()
    tokens = conditioner.conditions(SAID, 3)["tokens"]
    assert torch.equal(tokens, captions.encode([SAID] * 3))
    said = [SAID, "two keys"]
    assert captions.decode(conditioner.conditions(said, 5)["tokens"]) == [s.replace(",", "") for s in said * 3][:5]
    assert conditioner.conditions(None, 3) == {}


def test_a_word_that_nobody_knows_is_taken_for_the_nearest_or_refused():
    with pytest.warns(UserWarning, match="unknown word 'rabit' is taken for 'rabbit'"):
        found = Captions().conditions("a red rabit", 1)["tokens"]
    assert captions.decode(found) == ["a red rabbit"]
    with pytest.raises(ValueError, match="unknown word 'rabit'; did you mean 'rabbit'"):
        Captions(strict=True).conditions("a red rabit", 1)
    with pytest.raises(ValueError, match="unknown word 'qqqq'; there are"):
        Captions().conditions("a qqqq", 1)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (7, "this model draws captions, one or several, such as .*; got 7"),
        ([SAID, 7], "this model draws captions"),
        ([], "this model draws captions"),
        ([SAID] * 3, "got 3 captions for 2 pictures"),
        ("a " * 17, "at most 16 words, got 17"),
    ],
)
def test_what_is_no_caption_is_refused(wanted, message):
    with pytest.raises(ValueError, match=message):
        Captions().conditions(wanted, 2)


def test_a_network_that_never_heard_silence_must_be_told_something():
    assert Captions(dropped=False).nothing == {}
    with pytest.raises(ValueError, match=r"needs a caption; say it with --prompt"):
        Captions(dropped=False).conditions(None, 1)


# What is drawn


def test_a_picture_follows_from_its_seed_and_its_caption():
    model = tiny()
    assert isinstance(model.conditioner, Captions)
    assert model.known_shape == (3, 32, 32)
    two = models.draw(model, [SAID, "two keys"], range(2), steps=3)
    assert torch.allclose(two[:1], models.draw(model, SAID, [0], steps=3), atol=1e-5)
    assert torch.allclose(two[1:], models.draw(model, "two keys", [1], steps=3), atol=1e-5)
    assert not torch.allclose(two[:1], models.draw(model, "two keys", [0], steps=3), atol=1e-3)


def test_guidance_is_away_from_the_caption_of_no_words():
    model = tiny()
    xt, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.5)
    told = model.conditioner.conditions(SAID, 2)
    plain, nothing = model.denoiser(told, clip=False)(xt, t), model.denoiser(clip=False)(xt, t)
    assert not torch.allclose(plain, nothing, atol=1e-3)
    guided = model.denoiser(told, guidance=3, clip=False)(xt, t)
    torch.testing.assert_close(guided, nothing + 3 * (plain - nothing), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="also trained without"):
        tiny(dropout=0).denoiser(told, guidance=3)


def test_weights_are_written_and_read_with_what_they_are_of(tmp_path):
    model = tiny()
    models.save(tmp_path / "reads.safetensors", model.network, "continuous-cosine", None, "v")
    found = models.load(tmp_path / "reads.safetensors", size=32)
    assert found.network.config == model.network.config
    assert isinstance(found.conditioner, Captions)
    assert models.draw(found, SAID, [0], steps=2).shape == (1, 3, 32, 32)


# Training


def test_captions_are_told_and_one_in_ten_is_dropped():
    data = load("scenes")
    objective = build_objective(RECIPE, build_network(RECIPE, data))
    x0, told = data.take(torch.arange(2000))
    batch = objective.draw(x0, told, torch.Generator().manual_seed(0))
    dropped = ~batch["tokens"].any(1)
    assert torch.equal(batch["tokens"][~dropped], told["tokens"][~dropped])
    assert abs(dropped.float().mean() - 0.1) < 4 * (0.1 * 0.9 / 2000) ** 0.5
    few = {name: values[:2] for name, values in batch.items()}
    loss = objective.loss(build_network(RECIPE, data), few)
    assert loss.shape == (2,)


def test_a_run_goes_on_to_the_same_weights_and_is_loaded(tmp_path):
    whole = trainer_of(RECIPE, tmp_path / "whole").run()
    trainer_of(dataclasses.replace(RECIPE, steps=2, decay="none"), tmp_path / "half").run()
    half = trainer_of(dataclasses.replace(RECIPE, decay="none"), tmp_path / "half").run(resume=True)
    straight = trainer_of(dataclasses.replace(RECIPE, decay="none"), tmp_path / "straight").run()
    for a, b in zip(half.parameters(), straight.parameters()):
        assert torch.equal(a, b)
    found = models.load(tmp_path / "whole")
    assert isinstance(found.conditioner, Captions)
    for a, b in zip(found.network.parameters(), whole.parameters()):
        assert torch.equal(a, b)


def test_other_pictures_of_the_same_kind_measure_the_loss(tmp_path):
    trainer = trainer_of(dataclasses.replace(RECIPE, held_out="scenes"), tmp_path)
    assert trainer.held_out.data == Scenes("test", count=10_000)
    loss, error = trainer.held_out.loss(trainer.ema.network, 64, torch.device("cpu"))
    assert 0 < error < loss


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "mnist-5k"}, "mnist-5k has no captions for a network of kind 'text-unet'; take data = 'scenes'"),
        ({"network": {**NETWORK, "vocabulary": 12}}, "are of vocabulary = 87 and length = 16, got 12 and 16"),
    ],
)
def test_what_cannot_be_read_is_not_trained_on(changes, message):
    config = dataclasses.replace(RECIPE, **changes)
    with pytest.raises(ValueError, match=message):
        build_network(config, load(config.data))


def test_flipped_pictures_would_make_their_captions_lie():
    with pytest.raises(ValueError, match="flip turns left into right"):
        dataclasses.replace(RECIPE, flip=True)


def test_a_network_that_does_not_read_learns_the_pictures_alone():
    config = dataclasses.replace(RECIPE, network={"kind": "unet", "size": "tiny"})
    data = load("scenes")
    network = build_network(config, data)
    x0, told = data.take(torch.arange(2))
    assert "tokens" not in build_objective(config, network).draw(x0, told, torch.Generator())
    found = models.Model.of(network, config.denoising.build_schedule(), "v", models.Card(recipe=config))
    assert isinstance(found.conditioner, Labels)
