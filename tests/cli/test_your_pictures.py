"""From a folder of pictures to a model of one's own, as the pages of part Project print it, in small."""

import json
from pathlib import Path

import pytest
from PIL import Image

from diffusion_book.data import icons
from diffusion_book.training import RunConfig, checkpoint

SMALL = [
    *("--steps", 6, "--batch-size", 4, "--set", "log_every=2", "--set", "held_out_every=3", "--set", "preview_every=0"),
    *("--set", "network.channels=16", "--set", "warmup=1", "--set", "condition_dropout=0.1", "--size", 16),
]
CLASSES = ("food", "places")


@pytest.fixture
def sets(tmp_path) -> Path:
    """A folder to train on and one held out, of two classes; files that are no pictures lie between them."""
    for name in CLASSES:
        shown = [icon for icon in icons.catalogue() if icons.CLASSES[icon.label] == name][:10]
        for i, icon in enumerate(shown):
            side = tmp_path / "sets" / ("train" if i % 5 else "held-out") / name
            side.mkdir(parents=True, exist_ok=True)
            Image.fromarray(icons.render(icon.name, 24).permute(1, 2, 0).numpy()).save(side / f"{icon.name}.png")
        (tmp_path / "sets" / "train" / name / "notes.txt").write_text("where they are from")
    return tmp_path / "sets"


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_folder_becomes_a_model_with_its_curve(run, sets, tmp_path):
    words = ["--data", f"folder:{sets / 'train'}", "--held-out", f"folder:{sets / 'held-out'}", "--labels", "folders"]
    result = run("train", *words, "--out", "runs/mine", "--set", "flip=true", *SMALL)
    assert f"16 images 3×16×16 of folder:{sets / 'train'}, 4 more held out" in result.stdout
    folder = tmp_path / "runs" / "mine"
    assert [line["step"] for line in lines(folder) if "held_out_loss" in line] == [3, 6]
    for name in ("curve.png", "samples.png"):
        with Image.open(folder / name) as picture:
            picture.load()
    assert RunConfig.from_file(folder / "config.json").class_names == CLASSES

    # longer: what is known of the run lies in its folder
    result = run("train", "--out", "runs/mine", "--resume", "--steps", 8)
    assert "warning: runs/mine begins a new cycle at step 6" in result.stderr
    assert checkpoint.latest(folder / "checkpoints").name == "step-00000008"
    assert [line["step"] for line in lines(folder) if "held_out_loss" in line] == [3, 6, 8]

    # and on from it
    result = run("train", *words, "--start-from", "runs/mine", "--out", "runs/more", *SMALL[:10])
    assert "warning: runs/more begins from the weights of runs/mine" in result.stderr
    run("sample", "--model", "runs/more", "--class", "food", "--count", 2, "--steps", 2, "-o", "food.png")
