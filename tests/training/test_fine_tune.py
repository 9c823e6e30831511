"""Weights of another run, as far as they fit."""

from dataclasses import replace

import pytest
import torch

from _support.networks import randomised
from diffusion_book.data import Images
from diffusion_book.nn import DiT, DiTConfig, UNet, UNetConfig
from diffusion_book.training import RunConfig, Trainer
from diffusion_book.training.fine_tune import start_from

TINY = UNetConfig(channels=8, channel_mults=(1,), attention_levels=(), groups=4, classes=4)


def test_the_same_network_takes_every_weight():
    ours, theirs = UNet(TINY), randomised(UNet(replace(TINY, dropout=0.3)))
    assert start_from(ours, theirs, "theirs") == "begins from the weights of theirs"
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_other_classes_start_anew_and_are_told():
    ours, theirs = UNet(replace(TINY, classes=2)), randomised(UNet(TINY))
    fresh = ours.embed_class.weight.clone()
    told = start_from(ours, theirs, "theirs")
    assert told.endswith("embed_class.weight starts anew, for 2 classes where it had 4")
    assert torch.equal(ours.embed_class.weight, fresh)
    others = [name for name in ours.state_dict() if name != "embed_class.weight"]
    assert all(torch.equal(ours.state_dict()[name], theirs.state_dict()[name]) for name in others)


def test_from_none_to_some_classes_and_back():
    some, none = UNet(TINY), randomised(UNet(replace(TINY, classes=0)))
    assert start_from(some, none, "none").endswith("starts anew, for 4 classes where it had none")
    assert start_from(none, some, "some").endswith(
        "embed_class.weight is left behind, since nothing is told of classes"
    )
    assert all(torch.equal(value, some.state_dict()[name]) for name, value in none.state_dict().items())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (UNet(replace(TINY, channels=16)), r"theirs has network.channels = 16, and this run 8"),
        (UNet(replace(TINY, image_channels=3, blocks=2)), r"theirs has network.image_channels = 3, and this run 1"),
        (UNet(replace(TINY, norm_eps=1e-6)), r"theirs has network.norm_eps = 1e-06, and this run 1e-05"),
        (DiT(DiTConfig(width=8, depth=1, heads=2)), r"theirs is a DiT, and this run trains a UNet"),
    ],
    ids=["channels", "the first of two", "no weight", "kind"],
)
def test_another_network_is_refused_by_its_first_difference(other, message):
    """Also where all shapes fit, since the weights mean something else there."""
    ours = UNet(TINY)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        start_from(ours, other, "theirs")
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_a_trainer_begins_there_and_so_does_its_average(tmp_path):
    x = 2 * torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    network = {"kind": "unet", "channels": 8, "channel_mults": [1], "attention_levels": [], "groups": 4}
    told = {"network": network, "steps": 1, "batch_size": 4, "start_from": "theirs", "precision": "fp32"}
    config, data = RunConfig.from_dict(told), Images(x, {}, "made up")
    theirs = randomised(UNet(replace(TINY, classes=0)))
    trainer = Trainer(config, tmp_path, None, data, start=theirs)
    for network in (trainer.network, trainer.ema.network):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match=r"start_from = 'theirs' is found by models.trainer_of\(config, folder\)"):
        Trainer(config, tmp_path, None, data).run()
    with pytest.warns(UserWarning, match=rf"{tmp_path} begins from the weights of theirs"):
        trainer.run()
    Trainer(config, tmp_path, None, data).run(resume=True)  # by now its weights are its own
