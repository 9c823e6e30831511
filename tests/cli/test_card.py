"""`diffusion-book card`: a run becomes a folder that others can load, whose card says the truth about it."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from diffusion_book import data, models
from diffusion_book.data import pictures


def paint(folder, count, seed):
    """Pictures of noise in two subfolders, which are their classes."""
    x = torch.randint(256, (count, 4, 4, 3), generator=torch.Generator().manual_seed(seed)).byte()
    for i, image in enumerate(x):
        path = folder / ("cats", "dogs")[i % 2] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(path)
    return f"folder:{folder.name}"


@pytest.fixture
def trained(run, tmp_path):
    """A run of two steps on 60 pictures of two classes, in runs/mine; and 40 others."""
    network = "network={kind='unet', channels=8, channel_mults=[1], attention_levels=[], groups=4}"
    short = ["--size", 4, "--steps", 2, "--batch-size", 4, "--set", "warmup=0", "--set", network]
    folder, held_out = paint(tmp_path / "pets", 60, 0), paint(tmp_path / "others", 40, 1)
    run("train", "--data", folder, "--set", "labels=folders", "-o", "runs/mine", *short)
    return held_out


SAID = ["--licence", "CC BY 4.0", "--source", "painted by a test", "--use", "to be tested, and nothing else"]


def test_what_is_published_draws_the_pictures_beside_it(run, trained, tmp_path):
    run("card", "runs/mine", "--out", "published", *SAID)
    found = sorted(path.name for path in (tmp_path / "published").iterdir())
    assert found == ["README.md", "mine.json", "mine.safetensors", "samples.png"]
    model = models.load(tmp_path / "published" / "mine.safetensors")  # which asks for the card's SHA-256
    x = models.draw(model, [0, 1], range(4))
    pictures.write(x, tmp_path / "again.png", 2, range(4))
    same = [np.asarray(Image.open(tmp_path / name)) for name in ("again.png", "published/samples.png")]
    assert np.array_equal(*same)
    of_run = models.draw(tmp_path / "runs" / "mine", [0, 1], range(4))
    assert float((x - of_run).abs().max()) < 0.02  # half precision is all that was lost: 18 steps of 2**-11
    assert model.conditioner.names == ("cats", "dogs")


def test_the_command_in_the_readme_draws_samples_png(run, trained, tmp_path, monkeypatch):
    run("card", "runs/mine", "--out", "published", *SAID)
    monkeypatch.chdir(tmp_path / "published")
    shown = (tmp_path / "published" / "samples.png").read_bytes()
    text = (tmp_path / "published" / "README.md").read_text("utf8")
    command = next(line.strip() for line in text.splitlines() if line.startswith("    diffusion-book sample"))
    (tmp_path / "published" / "samples.png").unlink()
    run(*shlex.split(command)[1:])
    assert (tmp_path / "published" / "samples.png").read_bytes() == shown


def test_the_readme_says_what_was_told_and_what_was_measured(run, trained, tmp_path):
    run("evaluate", "-m", "runs/mine", "--held-out", trained, "--steps", 2)
    run("card", "runs/mine", "--out", "published", "--name", "pets", *SAID)
    text = (tmp_path / "published" / "README.md").read_text("utf8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "cc-by-4.0"
    card = models.load(tmp_path / "published" / "pets.safetensors").card
    summary = json.loads((tmp_path / "runs" / "mine" / "report.json").read_text())["summary"]
    kernel = summary["kernel distance (edges and colours 4×4)"]
    assert card.metrics["kernel distance (edges and colours 4×4)"] == kernel
    pixels = data.images_sha256(data.load("folder:pets", size=4).x)
    for said in (
        "# pets",
        "CC BY 4.0",
        "painted by a test",
        "to be tested, and nothing else",
        "of one of 2 classes: cats, dogs",
        f"`folder:pets`, 60 pictures (SHA-256 of their pixels {pixels[:16]}…)",
        "`folder:others`, 40 pictures",
        f"| kernel distance (edges and colours 4×4) | {kernel['mean']:.4g} ± {kernel['sd']:.2g} |",
        "Copies, by pixels: 0.0% of 50 pictures",
        "`diffusion-book evaluate --model runs/mine --steps 2 --held-out folder:others` measures it again",
        "8 pictures in 2 steps of 4",
        card.sha256,
        "before the weights were rounded to half precision",
    ):
        assert said in text


def test_what_nobody_said_stands_there_as_not_said(run, trained, tmp_path):
    told = run("card", "runs/mine", "--out", "published").stderr
    for field in ("licence", "source", "use"):
        assert f"not said: {field}; only you know it, give --{field}" in told
    text = (tmp_path / "published" / "README.md").read_text("utf8")
    assert text.count("Not said, so nobody else knows") == 3
    assert "license" not in yaml.safe_load(text.split("---")[1])
    assert "`diffusion-book evaluate` measures a run" in text
    run("card", "runs/mine", "--out", "published", "--licence", "only for my cat")
    front = yaml.safe_load((tmp_path / "published" / "README.md").read_text("utf8").split("---")[1])
    assert (front["license"], front["license_name"]) == ("other", "only for my cat")


def test_a_report_of_other_weights_is_refused(run, trained, tmp_path):
    run("evaluate", "-m", "runs/mine", "--held-out", trained, "--steps", 2)
    path = tmp_path / "runs" / "mine" / "report.json"
    report = json.loads(path.read_text())
    report["of"]["weights_sha256"] = "0" * 64
    path.write_text(json.dumps(report))
    refused = run("card", "runs/mine", "--out", "published", *SAID, fails=True).stderr
    assert "report.json is of other weights than the run's newest" in refused
    assert not (tmp_path / "published" / "mine.safetensors").exists()


def test_a_mistake_is_told_and_a_readme_of_others_is_left_alone(run, trained, tmp_path):
    assert "is no folder of a run" in run("card", "pets", "--out", "published", fails=True).stderr
    (tmp_path / "README.md").write_text("# My repository")
    assert "was not written by this command" in run("card", "runs/mine", "--out", ".", fails=True).stderr
    assert (tmp_path / "README.md").read_text() == "# My repository"
    run("card", "runs/mine", "--out", "published")
    run("card", "runs/mine", "--out", "published", *SAID)  # its own it writes again
    assert "painted by a test" in (tmp_path / "published" / "README.md").read_text("utf8")


def test_a_set_that_has_a_name_says_where_it_comes_from(run, tmp_path):
    network = "network={kind='unet', channels=8, channel_mults=[1], attention_levels=[], groups=4, patch=4}"
    short = ["--steps", 1, "--batch-size", 4, "--set", "warmup=0", "--set", network]
    run("train", "--data", "icons", "-o", "run", *short)
    run("card", "run", "--out", "published", "--name", "icons-tiny")
    text = (tmp_path / "published" / "README.md").read_text("utf8")
    assert "https://openmoji.org; licence: CC BY-SA 4.0" in text
    assert "of one of 10 classes: faces, people," in text


def test_the_commands_of_chapter_12_work_as_they_are_printed(run, tmp_path):
    """From a folder to published weights. Training is cut short by options behind the printed ones."""
    page = (Path(__file__).parents[2] / "book" / "12-evaluation.md").read_text("utf8")
    (printed,) = (block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "card" in block)
    generator = torch.Generator().manual_seed(0)
    for i, image in enumerate(torch.randint(256, (140, 40, 32, 3), generator=generator).byte()):
        path = tmp_path / "my" / "pictures" / ("cats", "dogs")[i % 2] / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(path)
    network = "network={kind='unet', channels=8, channel_mults=[1], attention_levels=[], groups=4, patch=4}"
    short = ["--steps", 2, "--batch-size", 4, "--set", "warmup=0", "--set", network]
    for line in printed.splitlines():
        program, command, *words = shlex.split(line)
        assert program == "diffusion-book"
        run(command, *words, *(short if command == "train" else []))
    model = models.load(tmp_path / "published" / "mine.safetensors")
    assert model.conditioner.names == ("cats", "dogs")
    assert model.known_shape[1:] == (32, 32)
    text = (tmp_path / "published" / "README.md").read_text("utf8")
    for said in ("my own photographs", "`folder:sets/held-out`", "| kernel distance (edges and colours 4×4) |"):
        assert said in text
