"""`diffusion-book train`: configurations, a folder of one's own, going on, and all that a person can get wrong."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_book import zoo
from diffusion_book.cli.train import _parse, _put
from diffusion_book.training import RunConfig, Trainer, checkpoint

TINY = ["--steps", 3, "--batch-size", 4, "--precision", "fp32", "--set", "network.channels=16", "--set", "T=12"]


@pytest.fixture
def pictures(tmp_path):
    """Colour images of mixed sizes, shapes and formats."""
    folder = tmp_path / "my pictures"
    (folder / "more").mkdir(parents=True)
    sizes = [(40, 30), (33, 80), (64, 64), (20, 20), (100, 31)]
    for i, size in enumerate(sizes):
        suffix = ("png", "jpg", "webp")[i % 3]
        Image.new("RGB", size, (40 * i, 20, 200)).save(folder / ("more" if i > 2 else "") / f"{i}.{suffix}")
    return folder


@pytest.fixture
def toml(tmp_path):
    def write(text, name="run.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_folder_of_mixed_pictures_ends_with_a_picture(run, pictures, tmp_path):
    result = run("train", "--data", f"folder:{pictures}", *TINY)
    folder = tmp_path / "runs" / "my pictures"
    assert "5 images 3×32×32" in result.output
    assert "samples.png" in result.output
    with Image.open(folder / "samples.png") as grid:
        assert grid.mode == "RGB"
        assert grid.size == (4 * (4 * 34 + 2), 4 * (4 * 34 + 2))  # 4 × 4 of 32 pixels, enlarged until 640 are near
    config = RunConfig.from_file(folder / "config.json")
    assert (config.size, config.batch_size, config.learning_rate) == (32, 4, 2e-3)
    # and the run is a model, from which more can be drawn
    run("sample", "--model", folder, "--count", 2, "--steps", 2, "-o", "two.png")
    assert (tmp_path / "two.png").exists()


def test_captioned_scenes_end_with_pictures_of_captions(run, tmp_path):
    few = ["--steps", 2, "--batch-size", 4, "--precision", "fp32", "--set", "network.channels=16"]
    result = run("train", "--data", "scenes", *few)
    assert "1000000 images 3×32×32 of scenes, text-unet of" in result.output
    assert "--prompt 'a small red cat" in result.output
    config = RunConfig.from_file(tmp_path / "runs" / "scenes" / "config.json")
    recipe = RunConfig.from_file(zoo.recipe("scenes-unet"))
    assert config.objective == recipe.objective
    assert config.network == {**recipe.network, "channels": 16}
    sample = ["sample", "--model", "runs/scenes", "--count", 2, "--steps", 2]
    run(*sample, "--prompt", "a small red cat, on yellow", "--guidance", 3, "-o", "two.png")
    assert (tmp_path / "two.png").exists()
    assert "leave one out" in run(*sample, "--prompt", "a cat", "--class", 3, fails=True).stderr
    assert "this model draws captions" in run(*sample, "--class", 3, fails=True).stderr


def test_the_size_of_equal_pictures_is_kept_with_the_run(run, tmp_path, toml):
    (tmp_path / "equal").mkdir()
    for i in range(3):
        Image.new("RGB", (24, 24), (90 * i, 0, 0)).save(tmp_path / "equal" / f"{i}.png")
    run("train", "--config", toml('data = "folder:equal"'), *TINY, "--out", "run")
    assert RunConfig.from_file(tmp_path / "run" / "config.json").size == 24


def test_subfolders_are_classes_that_the_run_knows_by_name(run, pictures, tmp_path):
    (pictures / "most").mkdir()
    for file in [path for path in pictures.iterdir() if path.is_file()]:
        file.rename(pictures / "most" / file.name)
    asked = ["--data", f"folder:{pictures}", "--set", "labels=folders", "--set", "flip=true"]
    run("train", *asked, *TINY, "-o", "named")
    config = RunConfig.from_file(tmp_path / "named" / "config.json")
    assert (config.labels, config.class_names, config.flip) == ("folders", ("more", "most"), True)
    run("sample", "--model", "named", "--class", "most,0", "--count", 2, "--steps", 2, "-o", "two.npz")
    assert np.load(tmp_path / "two.npz")["labels"].tolist() == [1, 0]
    assert "0 … 1" in run("sample", "--model", "named", "--class", 2, "--count", 2, "-o", "no.png", fails=True).output
    (pictures / "more").rename(pictures / "other")
    result = run("train", *asked, *TINY, "-o", "named", "--resume", fails=True)
    assert "was begun with class_names = ['more', 'most'], and now class_names = ['most', 'other']" in result.output


def test_training_says_what_it_will_take(run, monkeypatch):
    monkeypatch.setattr("diffusion_book.training.estimate.SECONDS", 0.0)
    said = run("train", *TINY, "--steps", 7, "--set", "preview_every=0", "-o", "run").stdout
    (line,) = [line for line in said.splitlines() if line.startswith("about ")]
    assert re.fullmatch(r"about \d+ \w+ for 2 more steps, \S+ s each; [\d.]+ GB of memory", line)


def test_a_run_is_fine_tuned_on_other_pictures_with_the_network_that_it_has(run, pictures, tmp_path):
    """Network, objective and size need not be said again; only the classes are others."""
    network = ["--set", "network.channel_mults=[1]", "--set", "network.attention_levels=[]", "--size", 16]
    run("train", "--data", f"folder:{pictures}", *TINY, *network, "-o", "first")
    (pictures / "most").mkdir()
    for file in [path for path in pictures.iterdir() if path.is_file()]:
        file.rename(pictures / "most" / file.name)
    words = ["--data", f"folder:{pictures}", "--labels", "folders", "--start-from", "first", "--steps", 2]
    result = run("train", *words, "--batch-size", 4, "-o", "second")
    assert "warning: second begins from the weights of first; embed_class.weight starts anew, for 2" in result.stderr
    first, second = (RunConfig.from_file(tmp_path / name / "config.json") for name in ("first", "second"))
    assert second.objective == first.objective
    assert second.size == 16
    assert (second.start_from, second.network["channels"]) == ("first", 16)
    run("train", "--resume", "-o", "second", "--steps", 3)
    other = run("train", *words, "--set", "network.channels=8", "-o", "third", fails=True)
    assert "first has network.channels = 16, and this run 8" in other.stderr


def test_options_go_before_the_file_and_the_file_before_defaults(run, toml, tmp_path):
    path = toml(
        "steps = 9\nbatch_size = 2\nprecision = 'fp32'\nT = 30\nseed = 5\n"
        "[network]\nkind = 'unet'\nsize = 'digits'\nchannels = 64\n"
    )
    run("train", "--config", path, "--steps", 2, "--set", "network.channels=16", "--set", "times=uniform")
    config = RunConfig.from_file(tmp_path / "runs" / "run" / "config.json")
    assert (config.steps, config.batch_size, config.seed, config.data) == (2, 2, 5, "mnist-5k")
    assert (config.denoising.T, config.denoising.times) == (30, "uniform")
    assert config.network == {"kind": "unet", "size": "digits", "channels": 16}


def test_yaml_is_read_too(run, toml, tmp_path):
    run("train", "--config", toml("steps: 2\nbatch_size: 2\nT: 20\nnetwork: {kind: unet, channels: 16}\n", "run.yaml"))
    assert checkpoint.latest(tmp_path / "runs" / "run" / "checkpoints").name == "step-00000002"


def test_a_classifier_is_trained_and_draws_nothing(run, tmp_path):
    network = ["--set", "network.kind='classifier'", "--set", "network.channels=4", "--set", "network.features=8"]
    run("train", "--steps", 2, "--batch-size", 4, "--set", "network={kind='classifier'}", *network, "-o", "run")
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()
    assert not (tmp_path / "run" / "samples.png").exists()


def test_stopped_and_gone_on_is_the_same_as_never_stopped(run, tmp_path):
    """Killed at step 2 of 4: the weights at the end are those of a run that was left alone."""
    words = ["train", *TINY, "--set", "checkpoint_every=2", "--set", "preview_every=0", "--steps", 4]
    run(*words, "-o", "whole")
    run(*words, "-o", "cut")
    folder = tmp_path / "cut" / "checkpoints"
    for step in checkpoint.checkpoints(folder)[1:]:
        for file in step.iterdir():
            file.unlink()
        step.rmdir()
    run("train", "--resume", "-o", "cut")  # with the configuration that lies in the folder
    ends = [checkpoint.load(tmp_path / name / "checkpoints" / "step-00000004", ["ema"])[1] for name in ("whole", "cut")]
    assert all(torch.equal(value, ends[1]["ema"][name]) for name, value in ends[0]["ema"].items())


def test_going_on_from_nothing_with_data_is_a_new_run_that_says_so(run, tmp_path):
    """One command for the first time and for all others, as a queue of jobs gives it."""
    words = ["train", *TINY, "--set", "preview_every=0", "--data", "mnist-5k", "--resume", "-o", "run"]
    assert "warning: there is no checkpoint in run to go on from; the run starts anew" in run(*words).stderr
    assert "starts anew" not in run(*words).stderr


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_train_suggests_at_its_end_is_a_command_that_runs(run, tmp_path, dropout):
    """A run that was always told a class draws with one, and refuses to draw without or to be guided."""
    result = run("train", *TINY, "--set", "preview_every=0", "--set", f"condition_dropout={dropout}", "-o", "run")
    name, *words = result.stdout.partition("more of them: ")[2].split()
    assert name == "diffusion-book"
    assert words == ["sample", "--model", "run", *(() if dropout else ("--class", "0,1,2,3,4,5,6,7,8,9"))]
    run(*words, "--steps", 2, "-o", "more.npz")
    labels = np.load(tmp_path / "more.npz").get("labels")
    assert dropout or labels.tolist() == [*range(10), *range(10)]
    unsaid = run("sample", "-m", "run", "-n", 1, "--steps", 2, fails=not dropout)
    guided = run("sample", "-m", "run", "-c", 7, "-n", 1, "--steps", 2, "--guidance", 3, fails=not dropout)
    assert dropout or "this model needs a class, 0 … 9; say which with --class" in unsaid.stderr
    assert dropout or "guidance needs a network that was also trained without labels" in guided.stderr


def test_previews_are_drawn_on_the_way(run, tmp_path):
    run("train", *TINY, "--set", "preview_every=2", "-o", "run")
    previews = sorted(path.name for path in (tmp_path / "run" / "previews").iterdir())
    assert previews == ["step-00000002.png", "step-00000003.png"]
    last = (tmp_path / "run" / "previews" / "step-00000003.png").read_bytes()
    assert last == (tmp_path / "run" / "samples.png").read_bytes()  # same weights, same seeds


# What can be wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "lerning_rate=0.1"], "unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        (["--set", "network.chanels=8"], "unknown key 'chanels'; did you mean 'channels'?"),
        (["--set", "ema_decay=high"], "ema_decay must be a number, got 'high'"),
        (["--set", "steps"], "--set takes KEY=VALUE, such as ema_decay=0.99, got 'steps'"),
        (["--set", "steps.more=2"], "steps has no parts"),
        (["--precision", "fp8"], "precision must be one of 'auto', 'fp32', 'bf16', 'fp16', got 'fp8'"),
        (["--precision", "fp16"], "precision = 'fp16' is for CUDA GPUs, got the device cpu"),
        (["--steps", 0], "steps must be a whole number of at least 1, got 0"),
        (["--data", "minst"], "unknown data set 'minst'"),
        (["--data", "folder:nowhere"], "nowhere is not a folder"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--size", 32], "size is for folder:PATH"),
        (["--set", "T=12", "--set", "T=13"], "T is given twice, as 12 and as 13; leave one out"),
        (["--set", "network.channels=8", "--set", "network={kind='unet'}"], "network is given twice"),
        (["--steps", 5, "--set", "steps=6"], "steps is given twice, as 5 and as 6"),
        (
            ["--resume", "-o", "runs/pictrues"],
            "there is no run in runs/pictrues to go on with; give its folder by --out",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_how_to_mend_it(run, words, message, tmp_path):
    options = ["--steps", 2] if "--steps" not in words else []
    if "--set" in words and "steps.more=2" in words:
        options = ["--steps", 2]
    result = run("train", *options, *words, fails=True)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("checkpoints"))  # nothing was begun


def test_a_mistake_in_a_file_names_the_file(run, toml):
    path = toml("stesp = 3")
    assert f"{path}: unknown key 'stesp'; did you mean 'steps'?" in run("train", "--config", path, fails=True).stderr
    path = toml("steps = = 3")
    assert f"{path}: " in run("train", "--config", path, fails=True).stderr
    path = toml("steps: 3", "run.ini")
    assert "a configuration is .toml, .yaml or .json" in run("train", "--config", path, fails=True).stderr


def test_one_broken_picture_among_many_is_named(run, pictures):
    (pictures / "more" / "torn.png").write_bytes((pictures / "0.png").read_bytes()[:40])
    result = run("train", "--data", f"folder:{pictures}", *TINY, fails=True)
    assert "torn.png cannot be read as an image" in result.stderr
    result = run("train", "--data", f"folder:{pictures}", *TINY, "--skip-broken")
    assert "warning: left out 1 of 6 files" in result.stderr
    assert "5 images 3×32×32" in result.stdout


def test_one_broken_picture_among_thousands_is_named_and_left_out_only_where_that_is_said(run, tmp_path):
    folder, torn = tmp_path / "thousands", tmp_path / "thousands" / "01234.png"
    folder.mkdir()
    kinds = []
    for shade in (0, 90, 255):
        Image.new("RGB", (8, 8), (shade, 20, 200)).save(folder / "kind.png")
        kinds.append((folder / "kind.png").read_bytes())
    (folder / "kind.png").unlink()
    for i in range(3000):
        (folder / f"{i:05d}.png").write_bytes(kinds[i % 3])
    torn.write_bytes(kinds[0][:40])
    words = ["train", "--data", f"folder:{folder}", *TINY, "--set", "preview_every=0", "-o", "run"]
    assert f"error: {torn} cannot be read as an image" in run(*words, fails=True).stderr
    assert not (tmp_path / "run").exists()
    result = run(*words, "--size", 8, "--skip-broken")
    (warning,) = re.findall(r"warning: left out 1 of 3000 files.*", result.stderr)
    assert set(re.findall(r"\w+\.png", warning)) == {torn.name}
    assert "2999 images 3×8×8" in result.stdout


def test_a_disk_that_is_full_at_the_last_picture_is_told_as_such(run, tmp_path, monkeypatch):
    """After the last checkpoint: nothing is lost, and --resume draws the picture."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    trained = Trainer.run

    def run_and_fill(trainer: Trainer, resume: bool) -> torch.nn.Module:
        network = trained(trainer, resume)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        return network

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", run_and_fill)
        try:
            result = run("train", *TINY, "--set", "preview_every=0", "-o", "run", fails=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.search(
        r"error: run cannot be written to .*File too large.*; the last good .*step-00000003", result.stderr
    )
    assert "start again with --resume" in result.stderr
    assert not (tmp_path / "run" / "samples.png").exists()
    run("train", "--resume", "-o", "run")
    with Image.open(tmp_path / "run" / "samples.png") as grid:
        grid.load()


def test_without_tensorboard_a_run_says_so_once(run, monkeypatch):
    words = ["train", *TINY, "--set", "preview_every=0", "-o"]
    assert "TensorBoard" not in run(*words, "with").stdout
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as where it is not installed
    said = run(*words, "without").stdout
    assert said.count("TensorBoard is not installed (pip install 'diffusion-book[train]'); see log.jsonl") == 1


def test_the_help_says_how_to_see_curves_and_what_several_machines_share(run):
    said = " ".join(run("train", "--help").output.split())
    extra = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf8"))["project"]
    (name,) = re.findall(r"pip install 'diffusion-book\[(\w+)\]'`, `tensorboard --logdir runs`", said)
    assert any(package.startswith("tensorboard") for package in extra["optional-dependencies"][name])
    assert "Several machines need the run's folder on a disk that they share" in said


def test_a_run_that_is_there_is_left_as_it_is(run, tmp_path):
    run("train", *TINY, "-o", "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()}
    assert "go on with it by --resume" in run("train", *TINY, "-o", "run", fails=True).stderr
    other = run("train", "--resume", "--seed", 7, "-o", "run", fails=True)
    assert "was begun with seed = 0, and now seed = 7" in other.stderr
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_loss_that_explodes_ends_the_run_and_not_its_last_checkpoint(run, tmp_path):
    words = ["--set", "checkpoint_every=1", "--set", "log_every=1", "--set", "preview_every=0", "--set", "warmup=1"]
    result = run("train", *TINY, *words, "--learning-rate", 1e30, "--steps", 6, "-o", "run", fails=True)
    assert "lower learning_rate or use precision = 'fp32'" in result.stderr
    last = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert str(last.name) in result.stderr
    assert all(value.isfinite().all() for value in checkpoint.load(last)[1]["network"].values())


def test_a_damaged_checkpoint_is_named(run, tmp_path):
    run("train", *TINY, "-o", "run")
    file = tmp_path / "run" / "checkpoints" / "step-00000003" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert "ema.safetensors is damaged" in run("train", "--resume", "-o", "run", fails=True).stderr
    assert "ema.safetensors is damaged" in run("sample", "--model", "run", fails=True).stderr


def test_a_folder_that_cannot_be_written_to_is_said_so(run, tmp_path):
    (tmp_path / "taken").write_text("")
    result = run("train", *TINY, "-o", "taken/run", fails=True)
    assert "cannot be written to" in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ema_decay=0.99", {"ema_decay": 0.99}),
        ("network.channels=32", {"network": {"channels": 32}}),
        ("network.channel_mults=[1, 2]", {"network": {"channel_mults": [1, 2]}}),
        ("schedule=flow", {"schedule": "flow"}),
        ("data='folder:a=b'", {"data": "folder:a=b"}),
        ("data=folder:a=b", {"data": "folder:a=b"}),
    ],
)
def test_values_are_written_as_in_toml_and_words_as_they_are(text, expected):
    values = {}
    _put(values, *_parse(text))
    assert values == expected


def test_a_run_that_is_stopped_says_how_to_go_on(run, tmp_path):
    """Ctrl-C, from a shell, after the first checkpoint."""
    words = [*TINY, "--set", "checkpoint_every=1", "--set", "preview_every=0", "--steps", 100_000, "-o", "run"]
    command = [sys.executable, "-m", "diffusion_book.cli", "train", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def listen() -> None:
        """A shell's background jobs ignore Ctrl-C, and their children with them, unless told otherwise."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, cwd=tmp_path, preexec_fn=listen, **pipes) as process:
        while process.poll() is None and not checkpoint.latest(tmp_path / "run" / "checkpoints"):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 1
    last = said.rstrip().splitlines()[-1]
    assert re.search(r"error: stopped at step \d+; the same command with --resume goes on from run/checkpoints", last)
    assert "Traceback" not in said
    step, _ = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    assert step >= 1
    assert f"step-{step:08d}" in last


def test_two_processes_of_a_cpu_are_started_as_the_help_says(run, tmp_path):
    """And not one, which is what accelerate does with its obvious options."""
    (command,) = re.findall(r"(ACCELERATE_USE_CPU.*\\\n.*) …", run("train", "--help").output)
    environment, accelerate, launch, *words = command.replace("\\\n", "").split()
    assert (environment, accelerate, launch) == ("ACCELERATE_USE_CPU=true", "accelerate", "launch")
    port = ["--main_process_port", "0"]  # any that is free, and not the usual one
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *port, *words, *map(str, TINY), "-o", "run"],
        cwd=tmp_path,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("on 2 × cpu")
    assert (tmp_path / "run" / "samples.png").exists()
