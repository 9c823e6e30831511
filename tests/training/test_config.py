"""Configurations: three kinds of file say the same, nothing is lost on the way, and a typing error is told."""

import json
import math

import pytest
import torch

from diffusion_book import zoo
from diffusion_book.data import Images
from diffusion_book.training import Classification, Denoising, DenoisingConfig, RunConfig
from diffusion_book.training.config import _parse_yaml, build_data, build_network, build_objective

UNET = {"kind": "unet", "channels": 8, "channel_mults": [1], "attention_levels": [], "groups": 4}

TOML = """
data = "folder:pictures"
size = 32
steps = 300
learning_rate = 3e-4
grad_clip = inf
keep_steps = [100, 200]

[network]
kind = "unet"
channels = 8
channel_mults = [1]
attention_levels = []
groups = 4

[objective]
weight = "min-snr"
"""
YAML = """
data: folder:pictures
size: 32
steps: 300
learning_rate: 3e-4
grad_clip: .inf
objective: {weight: min-snr}
keep_steps: [100, 200]
network: {kind: unet, channels: 8, channel_mults: [1], attention_levels: [], groups: 4}
"""
SAME = {
    "data": "folder:pictures",
    "size": 32,
    "steps": 300,
    "learning_rate": 3e-4,
    "grad_clip": math.inf,
    "objective": {"weight": "min-snr"},
    "keep_steps": [100, 200],
    "network": UNET,
}


def data(channels: int = 1, classes: int | None = 4) -> Images:
    x = torch.zeros(8, channels, 8, 8)
    x[0] = -1
    return Images(x, {} if classes is None else {"y": torch.arange(8) % classes}, "made up")


# Reading and writing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "text"), [("toml", TOML), ("yaml", YAML), ("yml", YAML), ("json", json.dumps(SAME))]
)
def test_three_kinds_of_file_say_the_same(suffix, text, tmp_path):
    path = tmp_path / f"run.{suffix}"
    path.write_text(text)
    config = RunConfig.from_file(path)
    assert config == RunConfig(**{**SAME, "keep_steps": (100, 200)})
    assert config.batch_size == RunConfig().batch_size  # what is left out has its default


def test_nothing_is_lost_on_the_way_to_json_and_back():
    config = RunConfig(
        **{
            **SAME,
            "network": {**UNET, "channel_mults": (1, 2)},
            "objective": {"T": 10, "schedule": "linear"},
            "accumulate": 4,
        }
    )
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert build_network(again, data()).config == build_network(config, data()).config
    assert {**vars(again), "network": None} == {**vars(config), "network": None}


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "+1e-3", "1.0e-3", "0.001", "10.e-4"])
def test_a_rate_in_yaml_is_a_number_with_or_without_a_dot(written, tmp_path):
    """YAML 1.1 reads 1e-3 as a text."""
    path = tmp_path / "run.yaml"
    path.write_text(f"learning_rate: {written}\n")
    assert RunConfig.from_file(path).learning_rate == 1e-3


def test_what_yaml_says_elsewhere_is_still_read(tmp_path):
    """Anchors, the merging of one mapping into another, and the numbers on which both versions agree."""
    path = tmp_path / "run.yaml"
    path.write_text("network: &n {kind: unet, channels: 64}\nsteps: 0x1F4\nseed: 0\nkeep_steps: [1, 500]\n")
    config = RunConfig.from_file(path)
    assert (config.steps, config.seed, config.keep_steps) == (500, 0, (1, 500))
    assert config.network == {"kind": "unet", "channels": 64}
    assert _parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("suffix", "text"), [("toml", TOML), ("yaml", YAML), ("json", json.dumps(SAME))])
def test_what_editors_on_windows_write_is_read(suffix, text, encoding, tmp_path):
    """With the mark of its encoding before it, and with their ends of lines."""
    path = tmp_path / f"run.{suffix}"
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    path.write_bytes(f"{mark}{text}".replace("\n", "\r\n").encode(encoding))
    assert RunConfig.from_file(path) == RunConfig(**{**SAME, "keep_steps": (100, 200)})


def test_a_configuration_may_lie_at_home(tmp_path, monkeypatch):
    (tmp_path / "run.toml").write_text("steps = 5")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunConfig.from_file("~/run.toml").steps == 5


def test_what_only_looks_like_a_number_in_yaml_stays_text(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: 1e3x\nschedule: cosine\n")
    assert RunConfig.from_file(path).data == "1e3x"


def test_yaml_makes_nothing_but_plain_values(tmp_path):
    path, canary = tmp_path / "run.yaml", tmp_path / "canary"
    path.write_text(f"data: !!python/object/apply:os.mkdir ['{canary}']\n")
    with pytest.raises(ValueError, match=r"run.yaml: could not determine a constructor"):
        RunConfig.from_file(path)
    assert not canary.exists()


# Mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rte": 1e-3}, "the configuration: unknown key 'learning_rte'; did you mean 'learning_rate'?"),
        ({"batchsize": 8}, "did you mean 'batch_size'?"),
        ({"checkpoint_evry": 8}, "did you mean 'checkpoint_every'?"),
        ({"zzz": 8}, "unknown key 'zzz'; known are steps, batch_size"),
        ({1: 2}, "unknown key 1"),
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"T": "ten"}, "T must be a whole number or nothing, got 'ten'"),
        ({"keep_steps": 5}, "keep_steps must be a list, each entry a whole number, got 5"),
        ({"keep_steps": ["a"]}, "keep_steps must be a list, each entry a whole number"),
        ({"network": "unet"}, "network must be a table of names and values, got 'unet'"),
        ({"decay": "linear"}, "decay must be one of 'cosine', 'none', got 'linear'"),
        ({"prediction": "epsilon"}, "prediction must be one of 'eps', 'x0', 'v'"),
        ({"network": {"kind": "unet", "chanels": 8}}, "unknown key 'chanels'; did you mean 'channels'?"),
        ({"network": {"channels": 8}}, "unknown kind of network None; choose one of unet, dit, classifier"),
        ({"schedule": "cosin"}, r"unknown schedule 'cosin' \(did you mean 'cosine'\?\); choose one of"),
        ({"network": {"kind": "unett"}}, r"unknown kind of network 'unett' \(did you mean 'unet'\?\)"),
        ({"network": {"kind": "unet", "size": "digit"}}, r"unknown U-Net size 'digit' \(did you mean 'digits'\?\)"),
        ({"warmup": -5}, "warmup must be a whole number of at least 0, got -5"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite, got nan"),
        ({"schedule": "flow", "T": 10}, "'flow' is continuous and takes no T, got 10"),
        ({"objective": "denoising", "T": 5}, "objective must be a table of names and values, got 'denoising'"),
        ({"objective": {"kind": ["denoising"]}, "T": 5}, r"unknown kind of objective \['denoising'\]"),
        ({"network": "unet", "T": 5}, "network must be a table of names and values, got 'unet'"),
        ({"objective": "denoising"}, "objective must be a table of names and values, got 'denoising'"),
        ({"objective": {"shedule": "flow"}}, "objective of kind 'denoising': unknown key 'shedule'; did you mean"),
        ({"objective": {"T": 10}, "T": 20}, r"T stands in the table \[objective\] and beside it; take one out"),
        ({"jitter": 0.5}, "objective of kind 'denoising': unknown key 'jitter'"),
        ({"network": {"kind": "classifier"}, "T": 5}, "objective of kind 'classification': unknown key 'T'"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.from_dict(values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_every": 0}, "log_every must be a whole number of at least 1, got 0"),
        ({"log_every": 1.5}, "log_every must be a whole number of at least 1, got 1.5"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a whole number of at least 1, got 0"),
        ({"checkpoint_every": 1.5}, "checkpoint_every must be a whole number of at least 1, got 1.5"),
        ({"keep": 0}, "keep must be a whole number of at least 1, got 0"),
        ({"keep": 1.5}, "keep must be a whole number of at least 1, got 1.5"),
        ({"accumulate": 0}, "accumulate must be a whole number of at least 1, got 0"),
        ({"accumulate": 1.5}, "accumulate must be a whole number of at least 1, got 1.5"),
        ({"decay": "linear"}, "decay must be 'cosine' or 'none', got 'linear'"),
        ({"preview_every": 2.5}, "preview_every must be a whole number of at least 0, got 2.5"),
        ({"keep_steps": (2.5,)}, "keep_steps must be steps of the run, 1 to steps = 2000, got 2.5"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"grad_clip": math.nan}, "grad_clip must be positive, got nan; use math.inf for no clipping"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0 and finite, got -0.1; 0 is none"),
        ({"weight_decay": math.nan}, "weight_decay must be at least 0 and finite, got nan"),
        ({"weight_decay": math.inf}, "weight_decay must be at least 0 and finite, got inf"),
        ({"ema_decay": 1.0}, r"the EMA's decay must lie in \[0, 1\), got 1.0"),
        ({"ema_decay": math.nan}, r"the EMA's decay must lie in \[0, 1\), got nan"),
        ({"objective": {"condition_dropout": math.nan}}, r"condition_dropout is a share in \[0, 1\], got nan"),
        ({"objective": {"kind": "denosing"}}, r"unknown kind of objective 'denosing' \(did you mean 'denoising'\?\)"),
        ({"objective": {"jitter": 1.0}}, "objective of kind 'denoising': unknown key 'jitter'"),
        (
            {"objective": {"kind": "classification"}},
            "a network of kind 'unet' cannot be trained for classification; cha",
        ),
        (
            {"network": {"kind": "classifier"}, "objective": {"kind": "denoising"}},
            "a network of kind 'classifier' cannot be trained for denoising; change network.kind or objective.kind",
        ),
        ({"preview_every": -1}, "preview_every must be a whole number of at least 0, got -1"),
        (
            {"steps": 5, "keep_steps": (5, 6)},
            "keep_steps must be steps of the run, 1 to steps = 5, got 6; its checkpoint would",
        ),
        ({"steps": 5, "keep_steps": (0,)}, "keep_steps must be steps of the run, 1 to steps = 5, got 0"),
    ],
)
def test_bad_values_are_refused_in_python_too(options, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"steps = ", "a.toml: Invalid value"),
        ("a.json", b"{", "a.json: Expecting property name"),
        ("a.yaml", b"a: [", "a.yaml: while parsing"),
        ("a.yaml", b"", "a.yaml: expected names and values, got NoneType"),
        ("a.json", b"[1]", "a.json: expected names and values, got list"),
        ("a.txt", b"steps = 1", "a configuration is .toml, .yaml or .json, not '.txt'"),
        ("a.toml", b"\xffsteps = 1", "a.toml cannot be read"),
        ("a.yaml", b"steps: 500\nsteps: 50\n", "a.yaml: steps stands there twice, as 500 and as 50; take one out"),
        ("a.json", b'{"steps": 500, "steps": 50}', "a.json: steps stands there twice, as 500 and as 50"),
        ("a.toml", b"steps = 500\nsteps = 50\n", "a.toml: Cannot overwrite a value"),
        ("a.yaml", b"network: {kind: unet, kind: dit}", "a.yaml: kind stands there twice, as 'unet' and as 'dit'"),
        ("a.json", b'{"network": {"kind": "unet", "kind": "dit"}}', "a.json: kind stands there twice"),
        ("a.yaml", b"steps: 0500", "a.yaml: 0500 means one number in YAML 1.1 and another in 1.2; write it in full"),
        ("a.yaml", b"steps: 10:00", "a.yaml: 10:00 means one number in YAML 1.1"),
        ("a.yaml", b"learning_rate: 1:30.5", "a.yaml: 1:30.5 means one number in YAML 1.1"),
        ("a.toml", b"step = 1", "a.toml: unknown key 'step'; did you mean 'steps'?"),
    ],
)
def test_a_bad_file_is_told_by_its_name(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        RunConfig.from_file(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"none.toml cannot be read"):
        RunConfig.from_file(tmp_path / "none.toml")


# What it stands for --------------------------------------------------------------------------------------------


def test_channels_and_classes_follow_from_the_data_where_they_are_not_said():
    config = build_network(RunConfig(network=UNET), data(3, 4)).config
    assert (config.image_channels, config.classes) == (3, 4)
    assert build_network(RunConfig(network=UNET), data(1, None)).config.classes == 0
    assert build_network(RunConfig(network={**UNET, "classes": 0}), data(1, 4)).config.classes == 0
    assert build_network(RunConfig(network={"kind": "classifier"}), data(1, 4)).config.classes == 4


def test_the_objective_is_the_one_that_is_named():
    table = {"schedule": "linear", "T": 20, "prediction": "eps", "condition_dropout": 0.1}
    config = RunConfig(network=UNET, objective=table)
    assert config.denoises
    assert config.objective == {"kind": "denoising", **table, "times": "uniform", "weight": "none"}
    assert config.denoising == DenoisingConfig(**table)
    found = build_objective(config, build_network(config, data()))
    assert isinstance(found, Denoising)
    assert (found.prediction, found.nothing, found.dropout) == ("eps", {"y": torch.tensor(4)}, 0.1)


def test_the_first_configurations_have_no_table_of_the_objective():
    """Theirs were flat, and had the options of every kind; those of another kind, at their defaults, said nothing."""
    flat = {"schedule": "linear", "T": 20, "prediction": "eps", "times": "sigma", "weight": "p2"}
    idle = {"jitter": 1.0}
    assert RunConfig.from_dict({**flat, **idle}) == RunConfig(objective=flat)
    assert RunConfig.from_dict({**flat, "objective": {"condition_dropout": 0.1}}).denoising.condition_dropout == 0.1
    idle = {"schedule": "cosine", "T": None, "prediction": "v", "times": "uniform", "weight": "none"}
    classifier = {"network": {"kind": "classifier"}}
    found = RunConfig.from_dict({**classifier, **idle, "condition_dropout": 0.0, "jitter": 0.5})
    assert found == RunConfig(**classifier, objective={"jitter": 0.5})


@pytest.mark.parametrize("name", zoo.names())
def test_a_card_of_the_zoo_has_the_recipe_that_is_committed(name):
    """Cards are flat, recipes have the table: the same configuration."""
    card = json.loads(zoo.weights(name).with_suffix(".json").read_text("utf8"))
    assert RunConfig.from_dict(card["recipe"]) == RunConfig.from_file(zoo.recipe(name.removesuffix("-early")))


@pytest.mark.parametrize(
    ("network", "labels", "message"),
    [
        (
            {"classes": 3},
            4,
            r"network.classes = 3 is too few for the labels 0 … 3 of mnist-5k: leave it out, or set it to 0",
        ),
        (
            {"classes": 2},
            None,
            "mnist-5k has no labels, so the network would learn nothing of its 2 classes: leave network",
        ),
        ({"no_label": False}, 4, "condition_dropout needs a network that can be told nothing: leave network.no_label"),
        ({"kind": "classifier", "channels": 4, "features": 8, "classes": 3}, 4, "too few .* or set it to 4"),
    ],
)
def test_a_network_whose_classes_are_not_those_of_the_data_is_refused(network, labels, message):
    classifies = "kind" in network
    objective = {} if classifies else {"condition_dropout": 0.1}
    config = RunConfig(network=network if classifies else {**UNET, **network}, objective=objective)
    with pytest.raises(ValueError, match=message):
        build_network(config, data(1, labels))


def test_a_network_may_have_more_classes_than_the_data_or_none():
    for classes in (0, 4, 9):
        network = build_network(RunConfig(network={**UNET, "classes": classes}), data(1, 4))
        assert network.config.classes == classes


def test_without_classes_the_network_is_told_no_labels():
    config = RunConfig(network={**UNET, "classes": 0}, objective={"condition_dropout": 0.1})
    found = build_objective(config, build_network(config, data()))
    batch = found.draw(torch.zeros(2, 1, 4, 4), {"y": torch.tensor([0, 1])}, torch.Generator())
    assert set(batch) == {"x0", "t", "eps"}


def test_a_classifier_classifies():
    config = RunConfig(network={"kind": "classifier"}, objective={"jitter": 0.5})
    assert not config.denoises
    with pytest.raises(ValueError, match="this run trains no denoiser: its objective is classification"):
        _ = config.denoising
    assert build_objective(config, build_network(config, data())) == Classification(jitter=0.5)


def test_data_is_loaded_by_name():
    with pytest.raises(ValueError, match="unknown data set 'mnst'"):
        build_data(RunConfig(data="mnst"))
    with pytest.raises(ValueError, match="size is for folder:PATH"):
        build_data(RunConfig(data="mnist-5k", size=32))
