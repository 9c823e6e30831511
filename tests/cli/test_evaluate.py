"""`diffusion-book evaluate`: numbers are the library's, each beside its floor, and the report says what they are of."""

import json
import shlex

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
    result = run(*words, "--precision", "fp32", "-o", "deep/report.json")  # as `sample` always is
    found = json.loads((tmp_path / "deep" / "report.json").read_text())
    namer = zoo.load_file(folder / "namer.safetensors").network
    extractor = evaluation.from_classifier(namer, str(folder / "namer.safetensors"))
    train = evaluation.moments(extractor, data.load("mnist-5k").x)
    each = found["summary"]["FCD-MNIST-5K"]["each"]
    for seed in range(2):  # pictures 0 … 59, then 60 … 119: what `sample` draws, to the last bit
        run("sample", "-m", folder / "unet.safetensors", "-n", 60, "--seed", 60 * seed, "--steps", 3, "-o", "x.npy")
        x = torch.from_numpy(np.load(tmp_path / "x.npy")).permute(0, 3, 1, 2).float() / 127.5 - 1
        distance = evaluation.frechet_distance(evaluation.moments(extractor, x), train)
        assert each[seed] == pytest.approx(distance, rel=1e-9)
        assert found["reports"][seed]["measures"][0]["value"] == each[seed]
    assert found["summary"]["FCD-MNIST-5K"]["mean"] == pytest.approx(sum(each) / 2)
    assert found["summary"]["FCD-MNIST-5K"]["sd"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    # Real digits are nearer to digits than what an untrained network draws.
    assert 0 < found["summary"]["FCD-MNIST-5K"]["real against real"]["mean"] < each[0]
    for said in ("FCD-MNIST-5K", "KCD-MNIST-5K", "60 samples by dpm_solver, 3 evaluations", "12.50%", "over 2 seeds"):
        assert said in result.output
        assert said in (tmp_path / "deep" / "report.md").read_text()
    assert extractor.sha256 in result.output
    assert "FID" not in result.output
    with Image.open(tmp_path / "deep" / "report.png") as picture:
        assert picture.width > 300


def test_a_report_that_cannot_be_written_is_told_before_anything_is_drawn(run, words, tmp_path):
    (tmp_path / "file").write_text("no folder")
    result = run(*words, "-o", "file/report.json", fails=True)
    assert "cannot be written" in result.stderr
    assert "sampling" not in result.stderr


def test_pixels_need_no_classifier(run, words, tmp_path):
    result = run(*words, "--extractor", "pixels", "--seeds", 1)
    summary = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert "60 images" in result.stderr
    assert next(iter(summary.values()))["sd"] is None
    assert "pixels 1×28×28" in summary["measured by"]["extractor"]


def test_numbers_go_into_the_card(run, words, folder, tmp_path):
    for name in ("unet.safetensors", "unet.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    words[2] = "unet.safetensors"
    run(*words, "--no-accuracy", "--card", "-o", "report.json")
    card = zoo.load_file(tmp_path / "unet.safetensors").card  # still that of these weights
    summary = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert card["metrics"]["training_loss"] == 0.5
    assert card["metrics"]["FCD-MNIST-5K"] == summary["FCD-MNIST-5K"]
    assert card["metrics"]["FCD-MNIST-5K"]["N"] == 60
    memory = json.loads((tmp_path / "report.json").read_text())["reports"][0]["memorisation"]
    for kind in ("features", "pixels"):
        assert card["metrics"]["memorisation"][kind] == {
            **{share: memory[kind][share] for share in ("nearer", "suspicious", "copies")},
            "N": 60,
        }
    typed = "evaluate --model unet.safetensors --count 60 --seeds 2 --steps 3 --extractor"
    command = card["metrics"]["measured by"]["command"]
    assert command.startswith(f"diffusion-book {typed} ")
    assert command.endswith("namer.safetensors --no-accuracy --card")
    again = run(*shlex.split(command)[1:])  # it is the command that it says it is
    assert again.exit_code == 0
    assert zoo.load_file(tmp_path / "unet.safetensors").card["metrics"] == card["metrics"]


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [(["--sampler", "heun", "--steps", 8], 11), (["--guidance", 2], 6), (["--guidance", 2, "--interval", 0, 0.5], 4)],
)
def test_evaluations_are_counted(run, words, folder, tmp_path, options, evaluations):
    """A guided step asks twice; of three, σ falls below 0.5 once. Heun's asks twice where σ falls at most threefold."""
    torch.manual_seed(0)
    config = nn.UNetConfig(channels=8, channel_mults=(1,), attention_levels=(), groups=4, patch=4, classes=10)
    sha256 = zoo.save(tmp_path / "with.safetensors", nn.UNet(config), "cosine", 60, "v")
    card = json.loads((folder / "unet.json").read_text())
    (tmp_path / "with.json").write_text(json.dumps({**card, "sha256": sha256}))
    words[2] = "with.safetensors"
    run(*words, "--seeds", 1, "--no-accuracy", *options)
    summary = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert summary["measured by"]["evaluations"] == evaluations


def test_the_precision_is_said_and_changes_little(run, words, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        run(*words, "--seeds", 1, "--precision", precision)
        found[precision] = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert "in float32 on" in found["fp32"]["measured by"]["notes"]
    assert "in bfloat16 on" in found["bf16"]["measured by"]["notes"]
    exact, rounded = (found[precision]["FCD-MNIST-5K"]["mean"] for precision in ("fp32", "bf16"))
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)
    assert "must be one of auto, fp32, bf16" in run(*words, "--precision", "fp8", fails=True).stderr
    assert "is for CUDA GPUs" in run(*words, "--precision", "fp16", fails=True).stderr


def test_a_mistake_is_one_line(run, words, folder, tmp_path):
    assert "must end in .json" in run(*words, "-o", "report.md", fails=True).stderr
    unet = folder / "unet.safetensors"
    assert "is no classifier" in run(*words, "--extractor", unet, fails=True).stderr
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(unet.read_bytes())
    words[2] = bare
    assert "no held-out images" in run(*words, fails=True).stderr
    assert "has no card to write into" in run(*words, "--card", fails=True).stderr
