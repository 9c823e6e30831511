"""Networks from descriptions: what is built, that nothing is lost on the way back, and which mistakes are told."""

import json
from dataclasses import fields

import pytest
import torch

from diffusion_book.nn import MLP, Classifier, DiT, UNet, UNetConfig, build, describe
from diffusion_book.nn.build import check_fields, configure, uncompiled

UNET = {"kind": "unet", "channels": 8, "channel_mults": [1, 1.5], "attention_levels": [], "groups": 4, "classes": 3}
DIT = {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "image_channels": 3}
CLASSIFIER = {"kind": "classifier", "channels": 4, "features": 8}


@pytest.mark.parametrize(("description", "of"), [(UNET, UNet), (DIT, DiT), (CLASSIFIER, Classifier)])
def test_a_description_survives_a_file(description, of):
    """build, describe, JSON and build again: the same class, with the same fields and parameters."""
    network = build(description)
    assert type(network) is of
    again = build(json.loads(json.dumps(describe(network))))
    assert again.config == network.config
    shapes = [{name: value.shape for name, value in n.state_dict().items()} for n in (network, again)]
    assert shapes[0] == shapes[1]
    for name, value in description.items():
        if name != "kind":
            assert getattr(network.config, name) == (tuple(value) if isinstance(value, list) else value)


def test_a_named_size_is_that_size_with_changes():
    assert build({"kind": "unet", "size": "tiny", "classes": 10}).config == UNetConfig.named("tiny", classes=10)


def test_a_description_does_not_speak_of_mixers_and_pooled_texts_where_there_are_none():
    """The headers of the first files name every field that there was, and not these two."""
    said = describe(build(UNET))
    assert set(said) == {"kind", *(field.name for field in fields(UNetConfig))} - {"mixer", "pooled_dim"}
    assert (build(said).config.mixer, build(said).config.pooled_dim) == ("attention", 0)
    assert describe(build({**UNET, "pooled_dim": 5})) == {**said, "pooled_dim": 5}


def test_a_compiled_network_has_the_description_and_the_names_of_its_own():
    network = build(UNET)
    compiled = torch.compile(network, backend="eager")
    assert describe(compiled) == describe(network)
    assert uncompiled(compiled) is uncompiled(network) is network
    assert list(compiled.state_dict()) != list(uncompiled(compiled).state_dict())


def test_configure_builds_no_weights():
    before = torch.get_rng_state()
    network, config = configure(UNET)
    assert (network, config.classes) == (UNet, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_of_another_kind_cannot_be_described():
    with pytest.raises(ValueError, match="MLP is none of the kinds unet, dit, classifier"):
        describe(MLP(2, 4, 1))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({}, "unknown kind of network None; choose one of unet, dit, classifier"),
        ({"kind": "u-net"}, r"unknown kind of network 'u-net' \(did you mean 'unet'\?\)"),
        ({"kind": ["unet"]}, r"unknown kind of network \['unet'\]"),
        ({"kind": "unet", "chanels": 8}, "network of kind 'unet': unknown key 'chanels'; did you mean 'channels'?"),
        ({"kind": "dit", "channel": 8}, "network of kind 'dit': unknown key 'channel'; did you mean 'image_channels'?"),
        ({"kind": "dit", "zzz": 8}, "unknown key 'zzz'; known are image_channels, width, depth"),
        ({"kind": "unet", "channels": "8"}, "channels must be a whole number, got '8'"),
        ({"kind": "unet", "channels": True}, "channels must be a whole number, got True"),
        ({"kind": "unet", "dropout": "0.1"}, "dropout must be a number, got '0.1'"),
        ({"kind": "unet", "channel_mults": 2}, "channel_mults must be a list, each entry a number, got 2"),
        ({"kind": "unet", "attention_levels": [1.5]}, "attention_levels must be a list, each entry a whole number"),
        ({"kind": "unet", "middle_attention": 1}, "middle_attention must be true or false or nothing, got 1"),
        ({"kind": "unet", "conditioning": "ad"}, "conditioning must be one of 'scale_shift', 'add', got 'ad'"),
        ({"kind": "unet", "size": "huge"}, "unknown U-Net size 'huge'; choose one of tiny, digits, small"),
        ({"kind": "unet", "size": ["digits"]}, "unknown U-Net size"),
        ({"kind": "classifier", "size": "tiny"}, "a network of kind 'classifier' has no named sizes; leave size out"),
        ({"kind": "unet", "groups": 7}, "groups = 7 must divide the features of every level"),
    ],
)
def test_a_mistake_is_told(description, message):
    with pytest.raises(ValueError, match=message):
        build(description)


def test_what_fits_is_left_alone():
    check_fields({"channels": 8, "dropout": 0, "middle_attention": None, "channel_mults": (1, 2.0)}, UNetConfig, "it")
