"""From a folder of pictures to a model that others can load, as the pages of part Project print it, in small."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffusion_book import data, models
from diffusion_book.data import icons
from diffusion_book.training import RunConfig, checkpoint

SMALL = [
    *("--steps", 6, "--batch-size", 4, "--set", "log_every=2", "--set", "held_out_every=3", "--set", "preview_every=0"),
    *("--set", "network.channels=16", "--set", "warmup=1", "--set", "condition_dropout=0.1", "--size", 16),
]
CLASSES = ("food", "places")


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Two classes of 52 pictures each, and what lies about in folders: notes, a torn file, copies and near-copies."""
    for name in CLASSES:
        folder = tmp_path / "my" / "pictures" / name
        folder.mkdir(parents=True)
        shown = [icon for icon in icons.catalogue() if icons.CLASSES[icon.label] == name][:52]
        for icon in shown:
            picture = icons.render(icon.name, 40).permute(1, 2, 0).numpy()
            Image.fromarray(picture).save(folder / f"{icon.name}.png")
    first, *_ = sorted(folder.iterdir())
    shutil.copy(first, folder / "a copy.png")
    with Image.open(first) as opened:
        opened.convert("RGB").save(folder / "nearly.jpg", quality=90)
    (folder / "torn.png").write_bytes(first.read_bytes()[:100])
    (folder / "notes.txt").write_text("where they are from")
    return tmp_path / "my" / "pictures"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_folder_becomes_a_model_that_others_can_load(run, pictures, tmp_path):
    before = {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()}
    said = run("data", "check", "my/pictures", "--clean", "clean").stdout
    assert "copied to clean" in said
    assert {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()} == before
    assert not list((tmp_path / "clean").rglob("torn.png"))
    run("data", "split", "clean", "--out", "sets", "--share", 0.1)
    train, held_out = (data.load(f"folder:sets/{name}", size=16, labels="folders") for name in ("train", "held-out"))
    assert train.class_names == held_out.class_names == CLASSES
    assert len(held_out) >= 4

    words = ["--data", "folder:sets/train", "--held-out", "folder:sets/held-out", "--labels", "folders"]
    result = run("train", *words, "--out", "runs/mine", "--set", "flip=true", *SMALL)
    assert f"{len(train)} images 3×16×16 of folder:sets/train, {len(held_out)} more held out" in result.stdout
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

    # measured and published, by what the run knows
    run("evaluate", "-m", "runs/mine")
    report = json.loads((folder / "report.json").read_text())
    assert report["summary"]["measured by"]["held out"] == "folder:sets/held-out"
    run("card", "runs/mine", "--out", "published")
    published = models.load("published/mine.safetensors")
    assert published.conditioner.names == CLASSES
    assert "folder:sets/held-out" in (tmp_path / "published" / "README.md").read_text("utf8")

    # and on from it: from the run, or from what others were given
    for name in ("runs/mine", "published/mine.safetensors"):
        result = run("train", *words, "--start-from", name, "--out", f"runs/of {Path(name).name}", *SMALL[:4])
        assert f"begins from the weights of {name}" in result.stderr
