"""`diffusion-book evaluate`: numbers are the library's, each beside its floor, and the report says what they are of."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_book import data, evaluation, nn, zoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A denoiser without classes and a classifier, neither of them trained: numbers can be computed all the same."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    unet = nn.UNet(nn.UNetConfig(channels=8, channel_mults=(1,), attention_levels=(), groups=4, patch=4))
    torch.nn.init.normal_(list(unet.parameters())[-2], std=0.3)
    classifier = nn.Classifier(nn.ClassifierConfig(channels=4, features=6))
    for path, network, words in (("unet", unet, ("cosine", 60, "v")), ("namer", classifier, ())):
        sha256 = zoo.save(folder / f"{path}.safetensors", network, *words)
        recipe = {"data": "mnist-5k", "size": None, "schedule": "cosine", "T": 60}
        card = {"sha256": sha256, "recipe": recipe, "metrics": {"training_loss": 0.5, "accuracy": 0.125}}
        (folder / f"{path}.json").write_text(json.dumps(card))
    return folder


@pytest.fixture
def words(folder):
    extractor = ["--extractor", folder / "namer.safetensors"]
    return ["evaluate", "-m", folder / "unet.safetensors", *extractor, "-n", 60, "--steps", 3, "--seeds", 2]


def test_the_numbers_are_those_of_the_library(run, words, folder, tmp_path):
    result = run(*words, "-o", "deep/report.json")
    report = json.loads((tmp_path / "deep" / "report.json").read_text())
    namer = zoo.load_file(folder / "namer.safetensors").network
    extractor = evaluation.from_classifier(namer, str(folder / "namer.safetensors"))
    train = evaluation.moments(extractor, data.load("mnist-5k").x)
    for seed in range(2):  # pictures 0 … 59, then 60 … 119: what `sample` draws
        run("sample", "-m", folder / "unet.safetensors", "-n", 60, "--seed", 60 * seed, "--steps", 3, "-o", "x.npy")
        x = torch.from_numpy(np.load(tmp_path / "x.npy")).permute(0, 3, 1, 2).float() / 127.5 - 1
        found = evaluation.frechet_distance(evaluation.moments(extractor, x), train)
        assert report["samples"]["frechet"]["each"][seed] == pytest.approx(found, rel=1e-3)
    each = report["samples"]["frechet"]["each"]
    assert report["samples"]["frechet"]["mean"] == pytest.approx(sum(each) / 2)
    assert report["samples"]["frechet"]["sd"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    # Held-out digits are nearer to digits than what an untrained network draws, and have what digits have.
    assert 0 < report["floor"]["frechet"]["mean"] < each[0]
    assert report["floor"]["recall"]["mean"] > report["samples"]["recall"]["mean"]
    assert report["extractor"]["accuracy"] == 0.125
    assert extractor.sha256 in report["extractor"]["identity"]
    assert report["weights"] == hashlib.sha256((folder / "unet.safetensors").read_bytes()).hexdigest()
    for said in (
        "FCD-MNIST-5K",
        "KCD-MNIST-5K",
        "60 samples by dpm_solver in 3 steps",
        "mnist-5k/test",
        "accuracy 12.50%",
    ):
        assert said in result.output
        assert said in (tmp_path / "deep" / "report.md").read_text()
    assert "FID" not in result.output
    with Image.open(tmp_path / "deep" / "report.png") as picture:
        assert picture.width > picture.height  # ten columns, six rows


def test_pixels_need_no_classifier(run, words, tmp_path):
    result = run(*words, "--extractor", "pixels", "--seeds", 1)
    assert "FCD (pixels 1×28×28)" in result.output
    assert "warning: 60 images" in result.stderr
    assert json.loads((tmp_path / "report.json").read_text())["samples"]["frechet"]["sd"] is None


def test_numbers_go_into_the_card(run, words, folder, tmp_path):
    for name in ("unet.safetensors", "unet.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    words[2] = "unet.safetensors"
    run(*words, "--card")
    card = zoo.load_file(tmp_path / "unet.safetensors").card  # still that of these weights
    report = json.loads((tmp_path / "report.json").read_text())
    assert card["metrics"]["training_loss"] == 0.5
    assert card["metrics"]["FCD-MNIST-5K"]["mean"] == report["samples"]["frechet"]["mean"]
    assert card["metrics"]["FCD-MNIST-5K"]["floor"] == report["floor"]["frechet"]
    assert card["metrics"]["measured by"]["N"] == 60


def test_a_mistake_is_one_line(run, words, folder, tmp_path):
    assert "must end in .json" in run(*words, "-o", "report.md", fails=True).stderr
    assert "mnist-5k/test has 500; take --count 500 or less" in run(*words, "-n", 501, fails=True).stderr
    unet = folder / "unet.safetensors"
    assert "is no classifier" in run(*words, "--extractor", unet, fails=True).stderr
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(unet.read_bytes())
    words[2] = bare
    assert "no held-out images" in run(*words, fails=True).stderr
    assert "has no card to write into" in run(*words, "--card", fails=True).stderr
