"""`diffusion-book data`: what there is to train on, and a look at it."""

import numpy as np
import pytest
from PIL import Image

from diffusion_book import data


def test_the_list_has_every_set(run):
    lines = run("data", "list").output.splitlines()
    assert [line.split()[0] for line in lines] == [*data.DATASETS, "folder:PATH"]
    assert "5,000 × 1×28×28" in lines[0]
    assert "no network needed" in lines[0]


@pytest.mark.parametrize("name", data.DATASETS)
def test_a_set_says_where_it_is_from_and_loads_nothing(run, name, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_BOOK_DATA", str(tmp_path / "nothing"))
    text = run("data", "show", name).output
    card = data.describe(name)
    for said in (card.what, card.source, card.licence, card.citation, f"{card.train:,} to train"):
        assert said in text
    assert not (tmp_path / "nothing").exists()


def test_a_set_can_be_looked_at(run, tmp_path):
    assert "20 of them: digits.png" in run("data", "show", "mnist-5k", "-o", "digits.png", "-n", 20).output
    with Image.open(tmp_path / "digits.png") as image:
        scale = image.width // (10 * 30 + 2)
        pixels = np.asarray(image)[::scale, ::scale]
    train = data.load("mnist-5k").x
    shown = pixels[32 : 32 + 28, 2 : 2 + 28]  # the first of the second row: number 10 of 20, evenly spaced
    assert np.abs(shown - ((train[10 * 4500 // 20, 0].numpy() + 1) * 127.5)).max() <= 0.5


def test_a_folder_is_read_to_the_last_file(run, tmp_path):
    for i in range(3):
        Image.new("RGB", (20 + i, 50), (80 * i, 0, 255)).save(tmp_path / f"{i}.png")
    assert "3 images, read as 3×32×32" in run("data", "show", "folder:.").output
    assert "3 of them: look.jpg" in run("data", "show", "folder:.", "--size", 16, "-o", "look.jpg").output
    (tmp_path / "look.jpg").unlink()
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    assert "torn.png cannot be read as an image" in run("data", "show", "folder:.", fails=True).stderr
    result = run("data", "show", "folder:.", "--skip-broken")
    assert "3 images, read as" in result.stdout
    assert result.stderr.startswith("warning: left out 1 of 4 files")
    assert result.stderr.count("\n") == 1


def test_a_mistake_is_one_line(run, tmp_path):
    assert "unknown data set 'minst'" in run("data", "show", "minst", fails=True).stderr
    assert "nowhere is not a folder" in run("data", "show", "folder:nowhere", fails=True).stderr
    assert "look.npz must end in one of" in run("data", "show", "mnist-5k", "-o", "look.npz", fails=True).stderr
    result = run("data", "show", "mnist-5k", "--split", "all", "-o", "a.png", fails=True)
    assert "split must be 'train' or 'test', got 'all'" in result.stderr


def test_a_folder_is_checked_cleaned_and_divided(run, tmp_path):
    data.write_icons(tmp_path / "mine", split="test")
    (tmp_path / "mine" / "torn.png").write_bytes(b"\x89PNG")
    before = sorted(tmp_path.rglob("*"))
    text = run("data", "check", "mine").output
    assert "mine: 122 pictures in 10 folders" in text
    assert "torn.png (" in text
    assert sorted(tmp_path.rglob("*")) == before
    kept = len(data.check(tmp_path / "mine").kept)
    assert f"{kept} pictures copied to clean" in run("data", "check", "mine", "--clean", "clean").output
    text = run("data", "split", "clean", "--out", "sets", "--share", 0.2).output
    train, held_out = (len(list((tmp_path / "sets" / part).rglob("*.png"))) for part in ("train", "held-out"))
    assert train + held_out == kept
    assert f"sets/train: {train} pictures; sets/held-out: {held_out}" in text
    assert "torn.png cannot be read" in run("data", "split", "mine", "-o", "other", fails=True).stderr
    for command in (["check", "mine", "--clean"], ["split", "clean", "--out"]):
        assert "is there and not empty" in run("data", *command, "sets", fails=True).stderr
    assert "mine/new lies within mine" in run("data", "check", "mine", "--clean", "mine/new", fails=True).stderr
