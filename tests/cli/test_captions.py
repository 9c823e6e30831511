"""Captions of one's own, from training to pictures; and what a model can be asked, by class or by prompt."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from _support.stable_diffusion import stable_diffusion
from diffusion_book import models
from diffusion_book.training import RunConfig

READS = ["--steps", 2, "--batch-size", 4, "--precision", "fp32", "--set", "network.channels=16"]
TINY = [*READS, "--set", "T=12"]


@pytest.fixture
def pictures(tmp_path):
    """Five pictures of several sizes, one in a subfolder."""
    folder = tmp_path / "my pictures"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("0.png", "1.png", "2.jpg", "more/3.png", "4.webp")):
        Image.new("RGB", (30 + 5 * i, 40), (40 * i, 20, 200)).save(folder / name)
    return folder


# Captions of one's own


@pytest.fixture
def captioned(pictures):
    """The pictures, with a text beside each."""
    for number, file in enumerate(sorted(path for path in pictures.rglob("*") if path.is_file())):
        file.with_suffix(".txt").write_text(("a dark square", "some bright squares, in Paris")[number % 2])
    return pictures


def test_captions_of_ones_own_are_drawn_after_from_the_run_and_from_its_file(run, captioned, tmp_path):
    result = run("train", "--data", f"folder:{captioned}", "--labels", "captions", *READS, "-o", "mine")
    assert "--prompt 'a dark square'" in result.output or "--prompt 'some bright squares in paris'" in result.output
    network = RunConfig.from_file(tmp_path / "mine" / "config.json").network
    words = ("", "a", "bright", "dark", "in", "paris", "some", "square", "squares")
    assert (tuple(network["words"]), network["vocabulary"], network["length"]) == (words, len(words), 5)
    run("export", "--model", "mine", "--format", "safetensors", "-o", "mine.safetensors")
    (tmp_path / "mine.json").unlink()  # the words are in the file itself
    for model in ("mine", "mine.safetensors"):
        sample = ["sample", "--model", model, "--count", 2, "--steps", 2, "--size", 32, "-o", f"{model}.npz"]
        assert "unknown word 'brigt' is taken for 'bright'" in run(*sample, "-p", "some brigt squares").stderr
    pictures = [np.load(tmp_path / f"{model}.npz")["arr_0"] for model in ("mine", "mine.safetensors")]
    assert np.abs(pictures[0].astype(int) - pictures[1].astype(int)).max() <= 3  # of 255: half precision
    assert "unknown word 'zebra'; there are 8 words" in run(*sample, "-p", "a zebra", fails=True).stderr
    resumed = ["train", "--data", f"folder:{captioned}", "--labels", "captions", *READS, "-o", "mine", "--resume"]
    run(*resumed)


def test_a_caption_without_its_picture_is_an_error_before_training(run, captioned):
    (captioned / "lost.txt").write_text("a cat")
    result = run("train", "--data", f"folder:{captioned}", "--labels", "captions", *READS, fails=True)
    assert "lost.txt is a caption without its picture" in result.stderr


def test_held_out_captions_are_told_in_the_words_of_training(run, captioned, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (32, 32), (250, 20, 99)).save(other / "x.png")
    (other / "x.txt").write_text("bright square")
    asked = ["--data", f"folder:{captioned}", "--labels", "captions", *READS, "-o", "mine"]
    run("train", *asked, "--held-out", f"folder:{other}", "--set", "held_out_every=2")
    line = json.loads((tmp_path / "mine" / "log.jsonl").read_text().splitlines()[-1])
    assert line["held_out_loss"] > 0


# What can be asked of whom


@pytest.fixture
def reads(run, tmp_path):
    """The shortest run that reads the words of scenes."""
    run("train", "--data", "scenes", *READS, "--set", "preview_every=0", "-o", "reads")
    return "reads"


def test_what_a_model_cannot_be_asked_is_told(run, reads):
    sample = ["sample", "--count", 2, "--steps", 2, "-o", "x.png", "--model"]
    for words, message in (
        ([reads, "-p", ""], "a caption without a word says nothing; leave it out for pictures of anything"),
        ([reads, "-p", " ,. "], "a caption without a word says nothing"),
        ([reads, "-p", "a " * 17], "a caption has at most 16 words, got 17"),
        ([reads, "-p", "a smal rabit", "--strict"], "unknown word 'smal'; did you mean 'small'?"),
        ([reads, "-p", "a xylophone"], "unknown word 'xylophone'; there are 86 words, data.captions.WORDS"),
        ([reads, "--strict"], "--strict is about the words of --prompt"),
        ([reads, "-c", "cat"], "reads knows no classes, this model draws captions; say what you want by --prompt"),
        ([reads, "-p", "a cat", "--guidance", "-1"], "guidance must be a number of at least 0, got -1.0; 1 is none"),
        ([reads, "-p", "a cat", "--guidance", "nan"], "guidance must be a number of at least 0, got nan"),
        (["mnist-unet", "-p", "a cat"], "mnist-unet reads no captions; leave --prompt out or give --class"),
        (["mnist-unet", "-p", "a cat", "-c", "3"], "leave one out"),
        (["mnist-unet", "-c", "3", "--guidance", "inf"], "guidance must be a number of at least 0, got inf"),
    ):
        assert message in run(*sample, *words, fails=True).stderr, words
    said = run(*sample, reads, "-p", "a smal rabit").stderr
    assert "unknown word 'smal' is taken for 'small'" in said
    assert "unknown word 'rabit' is taken for 'rabbit'" in said


def test_a_class_for_a_model_without_any_is_refused(run, pictures):
    run("train", "--data", f"folder:{pictures}", *TINY, "--set", "preview_every=0", "-o", "plain")
    sample = ["sample", "--count", 2, "--steps", 2, "-o", "x.png", "--model", "plain"]
    assert "trained without classes; leave --class out" in run(*sample, "-c", "1", fails=True).stderr
    assert "plain reads no captions; leave --prompt out\n" in run(*sample, "-p", "a cat", fails=True).stderr


def test_a_clip_is_measured_by_what_it_finds(run, tmp_path):
    result = run("evaluate", "--model", "scenes-clip", "-o", "clip.json")
    said = models.load_clip("scenes-clip").card.metrics["caption of a picture"]
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("| caption of a picture |")]
    found = json.loads((tmp_path / "clip.json").read_text())["summary"]
    assert found["caption of a picture"]["mean"] == pytest.approx(said["mean"], abs=2e-3)  # one or two of 1,280
    assert re.fullmatch(r"\| caption of a picture \| 9\d\.\d\d% ± 0\.\d\d% \| 1\.56% \|", row)
    refused = run("evaluate", "--model", "scenes-clip", "--count", 50, fails=True).stderr
    assert "a clip draws nothing and is measured by what it finds" in refused


# A pipeline of diffusers


def test_stable_diffusion_draws_what_a_prompt_says(run, tmp_path):
    stable_diffusion(1).save_pretrained(tmp_path / "sd")
    asked = ["--model", "sd", "--count", 2, "--steps", 2]
    run("sample", *asked, "--prompt", "a small red cat", "--guidance", 3, "-o", "cats.npy")
    drawn = np.load("cats.npy")
    assert drawn.shape[0] == 2
    assert drawn.std() > 0
    run("sample", *asked, "--size", 48, "-o", "anything.npy")
    assert np.load("anything.npy").shape[1:3] == (48, 48)
    assert "this model draws captions; say what you want by --prompt" in run(
        "sample", *asked, "--class", 7, fails=True
    ).output.replace("\n", " ")
