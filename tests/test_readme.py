"""What the README prints for people to copy, run as it is printed."""

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from PIL import Image, ImageDraw

from diffusion_book import models

README = Path(__file__).parents[1] / "README.md"


EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text("utf8"), re.DOTALL)


def test_the_example_of_a_model_that_is_there_draws_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(EXAMPLES[0], names)
    plt.close("all")
    assert (tmp_path / "sevens.png").stat().st_size > 1000
    classifier = models.load_classifier("mnist-classifier").network
    assert (classifier(names["sevens"]).argmax(1) == 7).float().mean() > 0.8
    assert classifier(names["bolder"]).argmax(1).tolist() == [0, 1, 2, 0, 1, 2]


def test_the_example_of_the_library_runs_and_learns(capsys):
    names: dict[str, object] = {}
    exec(EXAMPLES[1], names)
    samples, truth = map(float, re.findall(r": (-?[\d.]+) nats", capsys.readouterr().out))
    # Samples that miss the ring lose tens of nats; the network lost 0.2 when this was written.
    assert truth - samples < 0.5


def test_the_example_with_a_folder_of_pictures_runs_and_learns(tmp_path, monkeypatch):
    """Red discs of all sizes on blue, in files of mixed sizes and formats, come out as red discs on blue."""
    folder = tmp_path / "my" / "pictures"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(40):
        width, height = torch.randint(40, 80, (2,), generator=generator).tolist()
        radius = min(width, height) * (0.2 + 0.2 * torch.rand(1, generator=generator).item())
        picture = Image.new("RGB", (width, height), (20, 40, 200))
        box = [width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius]
        ImageDraw.Draw(picture).ellipse(box, fill=(220, 30, 20))
        picture.save(folder / f"{i}.{'png' if i % 2 else 'jpg'}")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(EXAMPLES[2], names)
    plt.close("all")
    assert (tmp_path / "new-pictures.png").stat().st_size > 1000
    red, _, blue = names["x_0"].unbind(1)
    corner, centre = (slice(None), slice(0, 3), slice(0, 3)), (slice(None), slice(14, 18), slice(14, 18))
    # Noise, or a grey mean, would be near 0 in all four; the discs are at ±0.7 and beyond.
    assert red[centre].mean() > 0.4 > -0.4 > blue[centre].mean()
    assert blue[corner].mean() > 0.3 > -0.4 > red[corner].mean()


def test_every_command_of_make_that_the_readme_names_exists():
    makefile = (README.parent / "Makefile").read_text("utf8")
    for command in re.findall(r"make (\w+)", README.read_text("utf8")):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command
