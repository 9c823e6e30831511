"""`diffusion-book zoo`: a recipe becomes weights and a card that says the truth about them."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from diffusion_book import data, models, zoo
from diffusion_book.cli.zoo import duration
from diffusion_book.models import Card, runs
from diffusion_book.training import checkpoint

DENOISER = """
data = "mnist-5k"
steps = 5
batch_size = 8
condition_dropout = 0.1
log_every = 2
checkpoint_every = 5
keep_steps = [3]
precision = "fp32"
[network]
kind = "unet"
channels = 8
channel_mults = [1]
attention_levels = []
patch = 4
"""
CLASSIFIER = """
data = "mnist-5k"
steps = 20
batch_size = 32
learning_rate = 1e-2
warmup = 2
precision = "fp32"
[network]
kind = "classifier"
channels = 8
features = 16
"""


AUTOENCODER = """
data = "mnist-5k"
steps = 2
batch_size = 8
precision = "fp32"
held_out = "mnist-5k"
preview_every = 0
[network]
kind = "autoencoder"
channels = 8
channel_mults = [1, 2]
patch = 2
groups = 4
"""


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "tiny.toml").write_text(DENOISER)
    (folder / "namer.toml").write_text(CLASSIFIER)
    (folder / "coder.toml").write_text(AUTOENCODER)
    monkeypatch.setattr(zoo, "RECIPES", folder)


def test_a_recipe_becomes_weights_and_a_card(run, recipes, tmp_path):
    result = run("zoo", "train", "tiny", "--export", "weights")
    assert "weights/tiny.safetensors" in result.output
    found = models.load("weights/tiny.safetensors")
    _, parts = checkpoint.load(tmp_path / "runs/tiny/checkpoints/step-00000005", only=["ema"])
    for name, value in found.network.state_dict().items():
        trained = parts["ema"][name]
        torch.testing.assert_close(value, trained, rtol=0, atol=float(trained.abs().max()) / 2**11)
    assert found.network.config.classes == 10
    assert found.prediction == "v"
    card = found.card
    assert card.sha256 == hashlib.sha256((tmp_path / "weights/tiny.safetensors").read_bytes()).hexdigest()
    assert card.command == "diffusion-book zoo train tiny"
    assert (card.name, card.seed, card.step, card.images_seen) == ("tiny", 0, 5, 40)
    assert card.recipe.network["patch"] == 4
    assert card.versions["torch"] == torch.__version__
    assert card.hardware["threads"] == torch.get_num_threads()
    for what in ("command", "seed", "hardware", "images_seen", "wall_time", "versions", "metrics", "recipe"):
        assert getattr(card, what) not in (None, "", {}), what


def test_a_step_that_is_kept_is_a_model_of_its_own(run, recipes, tmp_path):
    run("zoo", "train", "tiny", "--export", "weights")
    early = models.load("weights/tiny-early.safetensors")
    _, parts = checkpoint.load(tmp_path / "runs/tiny/checkpoints/step-00000003", only=["ema"])
    for name, value in early.network.state_dict().items():
        trained = parts["ema"][name]
        torch.testing.assert_close(value, trained, rtol=0, atol=float(trained.abs().max()) / 2**11)
    assert (early.card.name, early.card.step, early.card.images_seen) == ("tiny-early", 3, 24)
    assert early.card.wall_time <= models.load("weights/tiny.safetensors").card.wall_time


def test_a_last_step_that_is_kept_too_is_the_model_itself(run, recipes, tmp_path):
    (zoo.RECIPES / "tiny.toml").write_text(DENOISER.replace("[3]", "[3, 5]"))
    run("zoo", "train", "tiny", "--export", "weights")
    assert {path.stem for path in (tmp_path / "weights").glob("*.safetensors")} == {"tiny", "tiny-early"}
    assert models.load("weights/tiny.safetensors").card.step == 5


def test_a_run_that_has_ended_is_exported_again_without_training(run, recipes, tmp_path):
    run("zoo", "train", "tiny", "--export", "once")
    run("zoo", "train", "tiny", "--export", "twice", "--resume")
    for name in ("tiny.safetensors", "tiny-early.safetensors", "tiny.json"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_a_classifier_is_measured_on_digits_that_it_has_not_seen(run, recipes):
    run("zoo", "train", "namer", "--export", "weights")
    found = models.load_classifier("weights/namer.safetensors")
    test = data.load("mnist-5k", "test")
    right = sum(int(found.network(x[None]).argmax() == y) for x, y in zip(test.x, test.conditions["y"]))
    metrics = found.card.metrics
    assert metrics["accuracy"] == pytest.approx(right / 500, abs=1 / 500)  # one near tie may fall either way
    assert metrics["accuracy"] > 0.3  # 20 steps are enough to beat chance threefold
    assert (metrics["N"], metrics["split"]) == (500, "mnist-5k/test")


def test_wall_time_is_what_the_log_adds_up_to(tmp_path):
    lines = [(10, 80, 40.0), (20, 160, 80.0), (25, 200, 10.0)]
    log = [{"step": s, "images": n, "images_per_second": r, "loss": 1 / s} for s, n, r in lines]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    assert runs.wall_time(tmp_path, 200) == 2 + 1 + 4
    assert runs.wall_time(tmp_path, 120) == 2 + 0.5
    assert runs.wall_time(tmp_path, 40) == 1
    assert runs.training_loss(tmp_path, 22) == 0.05


def test_an_autoencoder_is_measured_and_knows_its_scale(run, recipes):
    run("zoo", "train", "coder", "--export", "weights")
    found = models.load_autoencoder("weights/coder.safetensors")
    z = found.codec.encode(data.load("mnist-5k").x[:1024])
    assert abs(float(z.mean())) < 0.01
    assert abs(float(z.std()) - 1) < 0.01
    metrics = found.card.metrics
    x = data.load("mnist-5k", "test").x
    off = (found.network(x)[0].clamp(-1, 1) - x).abs().mean()
    assert metrics["mean absolute error"] == pytest.approx(float(off), rel=1e-4)
    assert (metrics["N"], metrics["split"], metrics["training runs"]) == (500, "mnist-5k/test", 1)


@pytest.mark.parametrize("words", [[], ["--export", "/proc/weights"]])
def test_a_place_for_weights_that_cannot_be_written_is_told_before_training(words, run, recipes, tmp_path, monkeypatch):
    """The package may lie in a folder of the administrator's."""
    monkeypatch.setattr(zoo, "WEIGHTS", Path("/proc/weights"))
    result = run("zoo", "train", "tiny", *words, fails=True)
    assert "error: /proc/weights/tiny.safetensors cannot be written (" in result.stderr
    assert result.stderr.endswith("; give a folder that can be, by --export\n")
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_is_not_there_lists_those_that_are(run, recipes):
    result = run("zoo", "train", "tinny", fails=True)
    assert "error: unknown recipe 'tinny' (did you mean 'tiny'?); choose one of coder, namer, tiny" in result.stderr


def test_a_run_that_is_there_is_not_overwritten(run, recipes):
    run("zoo", "train", "tiny", "--export", "weights")
    result = run("zoo", "train", "tiny", "--export", "weights", fails=True)
    assert "go on with it by --resume" in result.stderr


def test_the_list_has_models_and_recipes_without_weights(run, recipes, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path / "weights")
    run("zoo", "train", "namer")  # into the zoo itself, where --export does not say otherwise
    listed = run("zoo", "list").output.splitlines()
    assert listed[0].split()[:4] == ["namer", "classifier", "on", "mnist-5k"]
    assert [line.split()[0] for line in listed[1:]] == ["coder", "tiny"]
    assert "zoo train tiny" in listed[2]
    shown = run("zoo", "show", "namer").output
    card = Card.beside(zoo.weights("namer"))
    for said in (
        "namer",
        "640 images in 20 steps",
        "zoo train namer",
        card.sha256,
        f"accuracy {card.accuracy:.4g}",
    ):
        assert said in shown
    assert DENOISER in run("zoo", "show", "tiny").output
    assert "unknown model 'tinny'; choose one of namer" in run("zoo", "show", "tinny", fails=True).stderr


@pytest.mark.parametrize(
    ("seconds", "said"), [(42, "42 s"), (89.4, "89 s"), (95, "2 min"), (3570, "1 h 0 min"), (4000, "1 h 7 min")]
)
def test_durations_are_said_as_people_do(seconds, said):
    assert duration(seconds) == said
