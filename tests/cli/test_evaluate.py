"""`diffusion-book evaluate`: numbers are the library's, each beside its floor, and the report says what they are of."""

import hashlib
import json
import math
import os
import resource
import shlex
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_book import data, evaluation, losses, models, nn, schedules, zoo
from diffusion_book.evaluation import of_model
from diffusion_book.models import Guidance, Model
from diffusion_book.nn import weights_sha256
from diffusion_book.training import RunConfig, Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A denoiser without classes and a classifier, neither of them trained: numbers can be computed all the same."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    unet = nn.UNet(nn.UNetConfig(channels=8, channel_mults=(1,), attention_levels=(), groups=4, patch=4))
    torch.nn.init.normal_(list(unet.parameters())[-2], std=0.3)
    classifier = nn.Classifier(nn.ClassifierConfig(channels=4, features=6))
    for path, network, words in (("unet", unet, ("cosine", 60, "v")), ("namer", classifier, ())):
        sha256 = models.save(folder / f"{path}.safetensors", network, *words)
        recipe = {"data": "mnist-5k", "size": None, "schedule": "cosine", "T": 60, "condition_dropout": 0.1}
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
    namer = models.load_classifier(folder / "namer.safetensors").network
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


@pytest.mark.parametrize("ending", ["json", "md", "png"])
def test_a_folder_in_the_place_of_a_report_is_told_before_anything_is_drawn(ending, run, words, tmp_path):
    (tmp_path / f"found.{ending}").mkdir()
    result = run(*words, "-o", "found.json", fails=True)
    assert f"found.{ending} cannot be written (it is a folder); give another --out" in result.stderr
    assert "sampling" not in result.stderr


def test_pixels_need_no_classifier(run, words, tmp_path):
    result = run(*words, "--extractor", "pixels", "--seeds", 1, "--no-accuracy")
    summary = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert "60 images" in result.stderr
    assert next(iter(summary.values()))["sd"] is None
    assert "pixels 1×28×28" in summary["measured by"]["extractor"]


def test_numbers_go_into_the_card(run, words, folder, tmp_path):
    for name in ("unet.safetensors", "unet.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    words[2] = "unet.safetensors"
    run(*words, "--no-accuracy", "--card", "-o", "report.json")
    card = models.load(tmp_path / "unet.safetensors").card  # still that of these weights
    summary = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert card.metrics["training_loss"] == 0.5
    assert card.metrics["FCD-MNIST-5K"] == summary["FCD-MNIST-5K"]
    assert card.metrics["FCD-MNIST-5K"]["N"] == 60
    memory = json.loads((tmp_path / "report.json").read_text())["reports"][0]["memorisation"]
    for kind in ("features", "pixels"):
        assert card.metrics["memorisation"][kind] == {
            **{share: memory[kind][share] for share in ("nearer", "suspicious", "copies")},
            "N": 60,
        }
    typed = "evaluate --model unet.safetensors --count 60 --seeds 2 --steps 3 --extractor"
    command = card.metrics["measured by"]["command"]
    assert command.startswith(f"diffusion-book {typed} ")
    assert command.endswith("namer.safetensors --no-accuracy")
    bytes_before = (tmp_path / "unet.json").read_bytes()
    run(*shlex.split(command)[1:])  # who types it measures the same again, and keeps the card
    assert (tmp_path / "unet.json").read_bytes() == bytes_before
    again = json.loads((tmp_path / "report.json").read_text())["summary"]
    for name in ("FCD-MNIST-5K", "memorisation"):
        assert again[name] == card.metrics[name]
    run(*shlex.split(command)[1:], "--card")
    assert models.load(tmp_path / "unet.safetensors").card == card


def test_seeds_are_said_to_be_of_sampling(run, words, tmp_path):
    result = run(*words, "--no-accuracy")
    how = json.loads((tmp_path / "report.json").read_text())["summary"]["measured by"]
    assert (how["seeds of sampling"], how["training runs"]) == (2, 1)
    assert "over 2 seeds of sampling" in result.output


def test_pictures_are_let_go_once_they_are_measured(run, words, tmp_path, monkeypatch):
    """An array lives as long as any tensor, or part of one, that shares its memory."""
    run(*words, "--seeds", 1, "--no-accuracy", "--precision", "fp32")
    at_once = json.loads((tmp_path / "report.json").read_text())["summary"]
    arrays, batches = [], models.batches

    def one(x):
        array = x.numpy().copy()
        arrays.append(weakref.ref(array))
        return torch.from_numpy(array)

    def watched(*what, **how):
        for x in batches(*what, **how):
            yield one(x)
            assert sum(array() is not None for array in arrays) <= 2, "batches are kept"

    monkeypatch.setattr(models, "batches", watched)
    run(*words, "--seeds", 1, "--no-accuracy", "--precision", "fp32", "--batch-size", 5)
    assert len(arrays) == 12
    in_parts = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert in_parts["FCD-MNIST-5K"]["mean"] == pytest.approx(at_once["FCD-MNIST-5K"]["mean"], rel=1e-5)
    assert in_parts["measured by"] == at_once["measured by"]


@pytest.fixture
def bring(folder, tmp_path):
    """Copy a model and its card to where they may be written to."""

    def copy(name):
        for suffix in (".safetensors", ".json"):
            (tmp_path / name).with_suffix(suffix).write_bytes((folder / name).with_suffix(suffix).read_bytes())
        return f"{name}.safetensors"

    return copy


def test_a_classifier_is_measured_on_held_out_images(run, bring, tmp_path):
    file = bring("namer")
    result = run("evaluate", "-m", file, "--card")
    card = json.loads((tmp_path / "namer.json").read_text())
    classifier, test = models.load_classifier(file).network, data.load("mnist-5k", "test")
    right = classifier(test.x).argmax(1) == test.conditions["y"]
    p = int(right.sum()) / 500
    found = card["metrics"]
    assert found == {**json.loads((tmp_path / "report.json").read_text())["summary"], **found}
    assert (found["accuracy"], found["N"], found["split"]) == (p, 500, "mnist-5k/test")
    assert found["standard error"] == pytest.approx(math.sqrt(p * (1 - p) / 500))
    assert found["accuracy by class"] == {str(c): right[test.conditions["y"] == c].sum().item() / 50 for c in range(10)}
    assert found["training_loss"] == 0.5
    assert "single training run" in found["notes"]
    assert card["sha256"] == hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
    assert card["weights_sha256"] == weights_sha256(classifier)
    assert found["measured by"]["command"] == "diffusion-book evaluate --model namer.safetensors"
    for said in (
        f"{p:.2%} ± ",
        card["sha256"],
        card["weights_sha256"],
        "500 images of mnist-5k/test",
        "single training",
    ):
        assert said in result.output
        assert said in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "report.png").exists()
    run(*shlex.split(found["measured by"]["command"])[1:], "--card")
    assert json.loads((tmp_path / "namer.json").read_text()) == card
    refused = run("evaluate", "-m", file, "--steps", 3, fails=True).stderr
    assert "a classifier draws nothing and is measured by its accuracy; leave --steps out" in refused


def test_bits_per_dimension_join_what_the_card_has(run, words, bring, tmp_path):
    """Beside the whole bound of the same images, of which the command draws a few steps."""
    words[2] = bring("unet")
    run(*words, "--no-accuracy", "--card")
    before = json.loads((tmp_path / "unet.json").read_text())["metrics"]
    result = run("evaluate", "-m", words[2], "--count", 0, "--bits", 200, 4, "--card")
    metrics = json.loads((tmp_path / "unet.json").read_text())["metrics"]
    bits = metrics.pop("bits per dimension")
    assert metrics == before
    assert (bits["bound"]["N"], bits["ODE"]["N"]) == (200, 4)
    test = data.load("mnist-5k", "test")
    x = test.x[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    found = models.load(words[2])
    whole = losses.vlb(found.denoiser(), found.schedule, x[:200], torch.Generator().manual_seed(9)).bits_per_dim(784)
    assert abs(bits["bound"]["mean"] - float(whole.mean())) < 4 * bits["bound"]["standard error"]
    assert float(whole.std()) / math.sqrt(200) < bits["bound"]["standard error"] < 0.1 * float(whole.mean())
    continuous = found.schedule.continuous()
    free = replace(found, schedule=continuous).denoiser(clip=False)
    exact = evaluation.bits_by_ode(free, continuous, x[:4], torch.Generator().manual_seed(0), rtol=1e-4, atol=1e-4)
    assert bits["ODE"]["mean"] == pytest.approx(exact.mean, rel=1e-4)
    assert bits["ODE"]["standard error"] == pytest.approx(exact.standard_error, rel=1e-3)
    assert bits["measured by"]["held out"] == "mnist-5k/test"
    assert bits["measured by"]["command"] == f"diffusion-book evaluate --model {words[2]} --count 0 --bits 200 4"
    assert f"| bound | {bits['bound']['mean']:.4g} ± " in result.output
    assert "FCD" not in result.output
    run(*words, "--no-accuracy", "--card")  # measured again in samples, it keeps them
    assert json.loads((tmp_path / "unet.json").read_text())["metrics"] == {**before, "bits per dimension": bits}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", 0], "--count must be 50 or more, or 0 beside --bits, got 0"),
        (["--count", 49], "--count must be 50 or more"),
        (["--count", 0, "--bits", 1, 0], "0 or of 2 … 500 images of mnist-5k/test, got 1"),
        (["--count", 0, "--bits", 0, 501], "0 or of 2 … 500 images of mnist-5k/test, got 501"),
    ],
)
def test_numbers_of_images_that_cannot_be_are_told(run, folder, options, message):
    assert message in run("evaluate", "-m", folder / "unet.safetensors", *options, fails=True).stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--seeds", 2],
        ["--steps", 3],
        ["--sampler", "nonsense"],
        ["--guidance", 3],
        ["--bad-model", "nowhere"],
        ["--interval", 0, 1],
        ["--precision", "bf16"],
        ["--extractor", "pixels"],
        ["--accuracy"],
        ["--no-accuracy"],
    ],
    ids=lambda options: options[0],
)
def test_what_nothing_would_use_is_refused(run, folder, bring, tmp_path, options):
    """And so does not go into the command of a card; it is named as it was typed."""
    file = bring("unet")
    before = (tmp_path / "unet.json").read_bytes()
    refused = run("evaluate", "-m", file, "--count", 0, "--bits", 2, 0, "--card", *options, fails=True).stderr
    assert f"--count 0 draws nothing and leaves bits per dimension alone; leave {options[0]} out" in refused
    assert (tmp_path / "unet.json").read_bytes() == before
    classifier = run("evaluate", "-m", folder / "namer.safetensors", *options, fails=True).stderr
    assert f"a classifier draws nothing and is measured by its accuracy; leave {options[0]} out" in classifier


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "dpm_slover"], "unknown sampler 'dpm_slover' (did you mean 'dpm_solver'?)"),
        (["--extractor", "mnist-clasifier"], "there is no model 'mnist-clasifier'"),
        (["--interval", 0.6, 9], "an interval is of guidance"),
        (["--bad-model", "unet.safetensors"], "a guidance of 1 does not ask the bad model"),
        (["--guidance", 2], "guidance needs labels"),
        (["--precision", "fp16", "--device", "cpu"], "is for CUDA GPUs"),
        (["--precision", "pf32"], "unknown precision 'pf32' (did you mean 'fp32'?)"),
        (["--count", 4961], "4,961 pictures and their floor need 5,001 real images"),
        (["--steps", 61], "steps must be an integer in 1 … T = 60, got 61"),
    ],
)
def test_what_is_wrong_is_told_before_bits_are_measured(run, words, bring, monkeypatch, options, message):
    words[2] = bring("unet")
    monkeypatch.setattr(of_model, "bits", lambda *_: pytest.fail("minutes were spent"))
    assert message in run(*words, "--bits", 2, 0, *options, fails=True).stderr


def test_classifiers_are_trained_only_where_they_can_be_tested(folder):
    """Of a folder's pictures nobody knows the labels."""
    torch.manual_seed(0)
    network = nn.UNet(nn.UNetConfig(channels=8, channel_mults=(1,), attention_levels=(), groups=4, patch=4, classes=10))
    card = models.load(folder / "unet.safetensors").card
    model = Model.of(network, schedules.cosine(60), "v", card)
    eyes = evaluation.pixels((1, 28, 28))
    train, bare = data.load("mnist-5k"), data.Images(data.load("mnist-5k", "test").x, {}, "folder:digits")
    how = of_model.Sampling("ddim", 2, Guidance(), 50, 1)
    learning = replace(how, accuracy=True)
    with pytest.raises(ValueError, match="folder:digits has no labels to test classifiers on; leave --accuracy out"):
        of_model.measure(model, learning, eyes, "it", train, bare)
    of_model.measure(model, how, eyes, "it", train, bare)
    one = replace(train, conditions={"y": torch.zeros(len(train), dtype=torch.int64)})
    with pytest.raises(ValueError, match="two classes or more"):
        of_model.measure(model, learning, eyes, "it", one, data.load("mnist-5k", "test"))


def test_bits_are_measured_in_batches_of_that_size(run, folder, tmp_path, monkeypatch):
    """And of 50 where nobody says: so those of the zoo's cards were drawn."""
    sizes, measure = [], evaluation.bits_by_bound

    def watched(denoiser, schedule, images, *rest):
        sizes.append(len(images))
        return measure(denoiser, schedule, images, *rest)

    monkeypatch.setattr(of_model, "bits_by_bound", watched)
    words = ["evaluate", "-m", folder / "unet.safetensors", "--count", 0, "--bits"]
    run(*words, 60, 0)
    assert sizes == [50, 10]
    run(*words, 10, 0, "--batch-size", 4)
    assert sizes[2:] == [4, 4, 2]


def test_a_continuous_schedule_has_no_bound(run, folder, bring, tmp_path):
    file = bring("unet")
    sha256 = models.save(tmp_path / file, models.load(file).network, "flow", None, "u")
    card = json.loads((tmp_path / "unet.json").read_text())
    (tmp_path / "unet.json").write_text(json.dumps({**card, "sha256": sha256}))
    refused = run("evaluate", "-m", file, "-n", 0, "--bits", 2, 3, fails=True).stderr
    assert "a bound needs a chain of steps" in refused
    assert "give --bits 0 3" in refused
    run("evaluate", "-m", file, "-n", 0, "--bits", 0, 2)
    found = json.loads((tmp_path / "report.json").read_text())["summary"]["bits per dimension"]
    assert list(found) == ["ODE", "measured by"]


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [(["--sampler", "heun", "--steps", 8], 11), (["--guidance", 2], 6), (["--guidance", 2, "--interval", 0, 0.5], 4)],
)
def test_evaluations_are_counted(run, words, folder, tmp_path, options, evaluations):
    """A guided step asks twice; of three, σ falls below 0.5 once. Heun's asks twice where σ falls at most threefold."""
    torch.manual_seed(0)
    config = nn.UNetConfig(channels=8, channel_mults=(1,), attention_levels=(), groups=4, patch=4, classes=10)
    sha256 = models.save(tmp_path / "with.safetensors", nn.UNet(config), "cosine", 60, "v")
    card = json.loads((folder / "unet.json").read_text())
    (tmp_path / "with.json").write_text(json.dumps({**card, "sha256": sha256}))
    words[2] = "with.safetensors"
    run(*words, "--seeds", 1, "--no-accuracy", *options)
    summary = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert summary["measured by"]["evaluations"] == evaluations


def test_the_precision_is_said_and_changes_little(run, words, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        run(*words, "--seeds", 1, "--no-accuracy", "--precision", precision)
        found[precision] = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert "in float32 on" in found["fp32"]["measured by"]["notes"]
    assert "in bfloat16 on" in found["bf16"]["measured by"]["notes"]
    exact, rounded = (found[precision]["FCD-MNIST-5K"]["mean"] for precision in ("fp32", "bf16"))
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)
    assert "choose one of auto, fp32, bf16" in run(*words, "--precision", "fp8", fails=True).stderr
    assert "is for CUDA GPUs" in run(*words, "--precision", "fp16", fails=True).stderr


@pytest.mark.parametrize("name", [name for name in zoo.names() if isinstance(models.load_any(name), Model)])
def test_the_command_of_a_card_still_measures_what_the_card_says(run, tmp_path, name):
    """With 60 pictures, and the offline digits in the place of all of MNIST, of which they are a part.

    The kernel distance has no bias in N, so it must be the card's within its own error, which at this N sees only what
    is gross: noise, another model's weights on a wrong schedule. How it was measured must be the same to the word.
    """
    card = json.loads(zoo.weights(name).with_suffix(".json").read_text("utf8"))
    command = shlex.split(card["metrics"]["measured by"]["command"])
    assert command[:4] == ["diffusion-book", "evaluate", "--model", name]
    assert "--card" not in command  # who repeats it does not write over what it made
    for at in range(len(command)):
        if command[at] == "--count":
            del command[at : at + 2]
            break
    (tmp_path / "it.safetensors").write_bytes(zoo.weights(name).read_bytes())
    offline = {"mnist": "mnist-5k"}.get(card["recipe"]["data"], card["recipe"]["data"])
    (tmp_path / "it.json").write_text(json.dumps({**card, "recipe": {**card["recipe"], "data": offline}}))
    options = [word for word in command[4:] if word not in ("--accuracy", "--no-accuracy")]
    run("evaluate", "-m", "it.safetensors", *options, "--count", 60, "--seeds", 1, "--no-accuracy")
    report = json.loads((tmp_path / "report.json").read_text())
    found, said = report["summary"]["measured by"], card["metrics"]["measured by"]
    for what in ("sampler", "evaluations", "guidance", "extractor"):
        assert found[what] == said[what]
    assert found["notes"].split()[:2] == said["notes"].split()[:2]  # "14 steps"
    assert found["notes"].partition("Guided")[1:] == said["notes"].partition("Guided")[1:]
    kernel = report["reports"][0]["measures"][1]
    error = (kernel["interval"][1] - kernel["value"]) / 2.093  # Student's t, 95 %, 19 degrees of freedom
    (name,) = (name for name in card["metrics"] if name.startswith(("KCD", "kernel distance")))
    assert abs(kernel["value"] - card["metrics"][name]["mean"]) < 4 * error


def test_a_mistake_is_one_line(run, words, folder, tmp_path):
    assert "must end in .json" in run(*words, "-o", "report.md", fails=True).stderr
    unet = folder / "unet.safetensors"
    assert "is no classifier" in run(*words, "--extractor", unet, fails=True).stderr
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(unet.read_bytes())
    words[2] = bare
    assert "no held-out images" in run(*words, fails=True).stderr
    assert "has no card to write into" in run(*words, "--card", fails=True).stderr


def test_a_card_that_cannot_be_written_is_told_before_anything_is_drawn(run, words, bring, tmp_path):
    words[2] = bring("unet")
    before = (tmp_path / "unet.json").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # a disk without a byte left
    try:
        card = run(*words, "--card", fails=True).stderr
        report = run(*words, fails=True).stderr
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "unet.json cannot be written" in card
    assert "leave --card out" in card
    assert "report.json cannot be written" in report
    assert "sampling" not in card + report
    assert (tmp_path / "unet.json").read_bytes() == before


# One's own pictures ----------------------------------------------------------------------------------------------


def paint(folder, count, seed, side=4):
    folder.mkdir()
    x = torch.randint(256, (count, side, side, 3), generator=torch.Generator().manual_seed(seed)).byte()
    for i, image in enumerate(x):
        Image.fromarray(image.numpy()).save(folder / f"{i:03d}.png")
    return f"folder:{folder.name}"


NETWORK = {"kind": "unet", "channels": 8, "channel_mults": [1], "attention_levels": [], "groups": 4}


@pytest.fixture
def own(run, tmp_path):
    """A run of one step on 60 small pictures in a folder."""
    network = "network={kind='unet', channels=8, channel_mults=[1], attention_levels=[], groups=4}"
    short = ["--size", 4, "--steps", 1, "--batch-size", 4, "--set", "warmup=0", "--set", network]
    run("train", "--data", paint(tmp_path / "cats", 60, 0), "-o", "run", *short)
    return [
        "evaluate",
        "-m",
        "run",
        "-o",
        "report.json",
        "--extractor",
        "pixels",
        "-n",
        50,
        "--steps",
        1,
        "--seeds",
        1,
        "--precision",
        "fp32",
    ]


def test_a_run_on_a_folder_is_measured_beside_pictures_that_it_has_not_seen(run, own, tmp_path):
    refused = run(*own, fails=True).stderr
    assert "trained on folder:cats, of which there are no held-out images" in refused
    assert "by --held-out folder:PATH" in refused
    run(*own, "--held-out", paint(tmp_path / "more cats", 30, 1, side=6))  # scaled as those of the run
    found = json.loads((tmp_path / "report.json").read_text())
    train, test = (data.load(f"folder:{name}", size=4) for name in ("cats", "more cats"))
    report = found["reports"][0]
    for part, images in (("reference", train), ("held_out", test)):
        assert report[part]["sha256"] == data.images_sha256(images.x)
        assert (report[part]["name"], report[part]["n"]) == (images.name, len(images))
    run("sample", "-m", "run", "-n", 50, "--steps", 1, "-o", "x.npy")
    x = torch.from_numpy(np.load(tmp_path / "x.npy")).permute(0, 3, 1, 2).float() / 127.5 - 1
    eyes = evaluation.pixels((3, 4, 4))
    distance = evaluation.frechet_distance(evaluation.moments(eyes, x), evaluation.moments(eyes, train.x))
    assert found["summary"]["Fréchet distance (pixels 3×4×4)"]["mean"] == pytest.approx(distance, rel=1e-6)


def test_a_run_on_a_folder_is_measured_without_an_option(run, own, tmp_path):
    """By its own held-out folder, edges, and half as many pictures as there are real ones; beside the run."""
    paint(tmp_path / "kept", 48, 1)
    run("train", "--out", "run", "--resume", "--held-out", "folder:kept")
    run("evaluate", "-m", "run")
    found = json.loads((tmp_path / "run" / "report.json").read_text())
    by = found["summary"]["measured by"]
    assert (by["held out"], by["seeds of sampling"]) == ("folder:kept", 3)
    assert by["extractor"].startswith("edges and colours 4×4")
    assert found["reports"][0]["n"] == (60 + 48) // 2
    assert "classification accuracy score" not in found["summary"]
    assert set(found["summary"]["memorisation"]) == {"features", "pixels"}
    assert found["of"] == {
        "weights_sha256": weights_sha256(models.load(tmp_path / "run").network),
        "command": "diffusion-book evaluate --model run",
    }
    assert not (tmp_path / "report.json").exists()


def test_what_is_usual_follows_from_the_data():
    digits, icons = data.load("mnist-5k"), data.load("icons")
    assert of_model.usual_extractor(digits) == "mnist-classifier"
    assert of_model.usual_extractor(icons) == "edges"
    assert of_model.usual_count(icons, data.load("icons", "test")) == 1270 // 2
    many = data.Images(torch.zeros(60_000, 1, 1, 1), {}, "mnist/train")
    assert of_model.usual_count(many, digits) == 10_000
    few = data.Images(icons.x[:30], {}, "few")
    assert of_model.usual_count(few, few) == 50  # and what is wrong is told: there are too few


def test_labels_of_held_out_pictures_must_mean_the_same(run, tmp_path):
    for folder, classes in {"a": ("x", "y"), "b": ("y", "z"), "c": ("x", "y")}.items():
        for name in classes:
            (tmp_path / folder).mkdir(exist_ok=True)
            paint(tmp_path / folder / name, 4, ord(folder) + 7 * ord(name))
    recipe = RunConfig(data=f"folder:{tmp_path / 'a'}", size=4, labels="folders", network=NETWORK)
    card = models.Card(recipe=recipe)
    with pytest.raises(ValueError, match=r"the classes of folder:.*b, y, z, are not those of folder:.*a, x, y"):
        of_model.real_images(card, f"folder:{tmp_path / 'b'}", labelled=True)
    _, unseen = of_model.real_images(card, f"folder:{tmp_path / 'c'}", labelled=True)
    assert unseen.conditions["y"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert not of_model.real_images(card, f"folder:{tmp_path / 'b'}")[1].conditions


def test_held_out_pictures_that_cannot_be_are_told_before_anything_is_drawn(run, own, tmp_path):
    paint(tmp_path / "few", 29, 2)
    paint(tmp_path / "others", 30, 3)
    (tmp_path / "others" / "copy.png").write_bytes((tmp_path / "cats" / "007.png").read_bytes())
    for held_out, message in {
        "folder:few": "50 pictures and their floor need 90 real images",
        "folder:nowhere": "nowhere is not a folder",
        "folder:cats": "60 of the 60 images of folder:cats are among those that the model was trained on",
        "folder:others": "1 of the 31 images of folder:others are among those",
        "mnist-5k": "[60, 3, 4, 4] of folder:cats, got [500, 1, 28, 28] of mnist-5k/test",
    }.items():
        refused = run(*own, "--held-out", held_out, fails=True).stderr
        assert message in refused
        assert "sampling" not in refused
    (tmp_path / "cats").rename(tmp_path / "dogs")
    moved = run(*own, "--held-out", "folder:few", fails=True).stderr
    assert "what the model was trained on is the reference, and cannot be had: cats is not a folder" in moved


def test_a_broken_picture_is_left_out_only_where_it_was_in_training(run, own, tmp_path):
    held_out = paint(tmp_path / "more", 30, 1)
    (tmp_path / "more" / "torn.png").write_bytes((tmp_path / "more" / "000.png").read_bytes()[:40])
    refused = run(*own, "--held-out", held_out, fails=True).stderr
    assert "torn.png cannot be read as an image" in refused
    assert refused.endswith("; repair it or take it out\n")  # `evaluate` has no --skip-broken
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "skip_broken": True}))
    result = run(*own, "--held-out", held_out)
    assert "warning: left out 1 of 31 files" in result.stderr
    assert json.loads((tmp_path / "report.json").read_text())["reports"][0]["held_out"]["n"] == 30


def test_a_run_that_does_not_say_its_size_has_that_of_its_pictures(run, own, tmp_path, monkeypatch):
    """As a trainer makes it that was called from Python."""
    short = {"steps": 1, "batch_size": 4, "warmup": 0, "network": NETWORK}
    Trainer(RunConfig(data=f"folder:{tmp_path / 'cats'}", **short), tmp_path / "plain").run()
    own[2] = "plain"
    run(*own, "--held-out", paint(tmp_path / "more", 30, 1, side=6))
    report = json.loads((tmp_path / "report.json").read_text())["reports"][0]
    held_out = data.load("folder:more", size=4)
    assert report["held_out"]["sha256"] == data.images_sha256(held_out.x)
    (tmp_path / "cats").rename(tmp_path / "dogs")
    (tmp_path / "cats").mkdir()
    for i in range(60):
        Image.new("RGB", (4, 6)).save(tmp_path / "cats" / f"{i}.png")
    refused = run(*own, "--held-out", "folder:more", fails=True).stderr
    assert "squares are drawn, so none can be compared with" in refused
    assert "of 4×6 pixels" in refused


def test_inception_wants_colour_and_its_weights(run, own, words, tmp_path, monkeypatch):
    assert "Inception looks at images in colour" in run(*words, "--extractor", "inception", fails=True).stderr
    import diffusion_book._torchvision

    assert diffusion_book._torchvision.torchvision  # mended before torch-fidelity imports it
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(theirs, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights-0123abcd.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    held_out = paint(tmp_path / "more", 30, 1)
    refused = run(*own, "--held-out", held_out, "--extractor", "inception", fails=True).stderr
    assert "Inception's weights could not be downloaded" in refused
    assert "sampling" not in refused


def test_a_report_is_drawn_whatever_a_notebook_has_left_in_the_environment(tmp_path):
    """Jupyter names its own backend of matplotlib to all that it starts, and that may not be installed here."""
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from diffusion_book.cli.evaluate import _draw\n"
        "from diffusion_book.evaluation import Measure, Origin, Pictures, Report, Scores\n"
        "x = torch.zeros(2, 1, 4, 4)\n"
        "measure = Measure('d', 3.0, Scores.of([0.9, 1.0]), 2, 2, 2)\n"
        "memory, origin = ({}, {}), Origin('m', 'ddim', 1, 1.0, 0)\n"
        "parts = (origin, (measure,), (), *memory, None)\n"
        "_draw(Report('d', 2, *parts, {}, {}, {}, (0, 1), {}, Pictures(x, x, x)), Path('r.png'))\n"
    )
    environment = {**os.environ, "MPLBACKEND": "module://a_package_that_is_not_here.backend"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.png"]
