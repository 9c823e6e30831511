"""A run that begins from a trained model, whatever a person calls that."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_book import models
from diffusion_book.data import Images
from diffusion_book.training import RunConfig, checkpoint

UNET = {"kind": "unet", "channels": 8, "channel_mults": [1], "attention_levels": [], "groups": 4}
TINY = {"network": UNET, "batch_size": 4, "precision": "fp32", "preview_every": 0, "data": "folder:made/up", "size": 8}


def made_up(classes: int = 3, channels: int = 3) -> Images:
    x = 2 * torch.rand(9, channels, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    return Images(x, {"y": torch.arange(9) % classes}, "made up")


def run(folder: Path, data: Images | None = None, **changes: Any) -> torch.nn.Module:
    config = RunConfig.from_dict({**TINY, "steps": 1, "class_names": ["a", "b", "c"], **changes})
    return models.trainer_of(config, folder, data or made_up()).run()


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "run"
    run(folder, steps=3)
    return folder


@pytest.mark.parametrize("kind", ["a run", "a file"])
def test_a_run_begins_from_the_averaged_weights(kind, other, tmp_path):
    """With next to no learning rate they are still there after a step; a file has them in half precision."""
    name = other if kind == "a run" else tmp_path / "other.safetensors"
    if kind == "a file":
        models.export(models.load_any(other), name)
    with pytest.warns(UserWarning, match=f"begins from the weights of {name}"):
        found = run(tmp_path / "run", start_from=str(name), learning_rate=1e-12)
    average = checkpoint.load(checkpoint.latest(other / "checkpoints"), ["ema"])[1]["ema"]
    tolerance = {"rtol": 1e-6, "atol": 1e-8} if kind == "a run" else {"rtol": 2**-10, "atol": 1e-6}
    torch.testing.assert_close(dict(found.state_dict()), average, **tolerance)


def test_a_run_that_goes_on_does_not_ask_for_what_it_began_from(other, tmp_path):
    (tmp_path / "moved").symlink_to(other)
    with pytest.warns(UserWarning, match="begins from"):
        run(tmp_path / "run", start_from=str(tmp_path / "moved"))
    (tmp_path / "moved").unlink()
    config = RunConfig.from_file(tmp_path / "run" / "config.json")
    models.trainer_of(config, tmp_path / "run", made_up()).run(resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {**UNET, "channels": 16}}, "has network.channels = 8, and this run 16"),
        ({"prediction": "eps"}, "predicts v, and this run eps; set objective.prediction = 'v'"),
        ({"schedule": "flow"}, "was trained on the schedule .*, and this run trains on"),
        ({"network": {"kind": "classifier"}}, "draws, and this run trains for classification"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_begun(changes, message, other, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", start_from=str(other), **changes)
    assert not (tmp_path / "run").exists()


def test_a_configuration_like_that_of_a_model_fits_it(other, tmp_path):
    known = models.like(str(other))
    assert known["size"] == 8
    with pytest.warns(UserWarning, match="embed_class.weight starts anew, for 2 classes where it had 3"):
        run(tmp_path / "run", made_up(2), start_from=str(other), **known)


def test_of_digits_only_what_they_have_is_taken(tmp_path):
    """Grey pictures do not fit into a network for colour, and are told as such."""
    known = models.like("mnist-unet")
    assert known["size"] == 28
    with pytest.raises(ValueError, match=r"mnist-unet has network.image_channels = 1, and this run 3"):
        run(tmp_path / "run", start_from="mnist-unet", **known)
