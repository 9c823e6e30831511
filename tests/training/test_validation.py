"""The held-out loss: the same draw every time, few of its numbers chance, and training does not hear of it."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diffusion_book.data import Images, load
from diffusion_book.schedules import cosine
from diffusion_book.training import Classification, Denoising, RunConfig, Trainer, checkpoint
from diffusion_book.training.validation import DRAWS, MOST, HeldOut, build_held_out, standard_error

UNET = {"kind": "unet", "channels": 8, "channel_mults": [1], "attention_levels": [], "groups": 4, "dropout": 0.1}
TINY = {
    "network": UNET,
    "batch_size": 8,
    "steps": 12,
    "warmup": 3,
    "precision": "fp32",
    "log_every": 4,
    "preview_every": 0,
    "checkpoint_every": 3,
}


class Silent(nn.Module):
    """A network that says 0."""

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


def made_up(n: int, seed: int = 0, classes: int = 3) -> Images:
    """Pictures of one shade each, some far from 0 and some near: much of the loss is in which they are."""
    generator = torch.Generator().manual_seed(seed)
    x = (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1).expand(n, 1, 8, 8).contiguous()
    x[0, 0, 0, 0] = -1
    return Images(x, {"y": torch.arange(n) % classes}, "made up")


def run(folder: Path, resume: bool = False, **changes: Any) -> nn.Module:
    held_out = made_up(5, seed=1) if changes.pop("measured", True) else None
    trainer = Trainer(RunConfig.from_dict({**TINY, **changes}), folder, None, made_up(28), held_out)
    return trainer.run(resume)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_who_measures_trains_the_same(tmp_path):
    """Bit for bit, though measurements fall between all other things."""
    run(tmp_path / "with", held_out_every=1)
    run(tmp_path / "without", measured=False)
    with_, without = (
        checkpoint.load(tmp_path / name / "checkpoints" / "step-00000012")[1] for name in ("with", "without")
    )
    for part in ("network", "ema", "optimiser"):
        assert all(torch.equal(value, without[part][name]) for name, value in with_[part].items())


def test_the_log_has_it_when_it_is_due_and_at_the_end(tmp_path):
    """Every line is whole, and the number is that of the averaged weights of its step."""
    run(tmp_path, held_out_every=5, keep_steps=[10])
    assert [line["step"] for line in log(tmp_path)] == [4, 5, 8, 10, 12]
    assert all({"loss", "images", "images_per_second"} <= line.keys() for line in log(tmp_path))
    measured = {line["step"]: line for line in log(tmp_path) if "held_out_loss" in line}
    assert sorted(measured) == [5, 10, 12]
    for step in (10, 12):
        trainer = Trainer(RunConfig.from_dict(TINY), tmp_path / "again", None, made_up(28), made_up(5, seed=1))
        parts = checkpoint.load(tmp_path / "checkpoints" / f"step-{step:08d}", ["ema"])[1]
        trainer.ema.network.load_state_dict(parts["ema"])
        loss, error = trainer.held_out.loss(trainer.ema.network, 8, torch.device("cpu"))
        assert measured[step]["held_out_loss"] == loss
        assert measured[step]["held_out_standard_error"] == error


def test_a_run_that_was_cut_measures_the_same(tmp_path):
    run(tmp_path / "whole", held_out_every=5)
    run(tmp_path / "cut", held_out_every=5)
    for step in checkpoint.checkpoints(tmp_path / "cut" / "checkpoints")[1:]:
        for file in step.iterdir():
            file.unlink()
        step.rmdir()
    run(tmp_path / "cut", resume=True, held_out_every=5)
    lines = [
        [{k: v for k, v in line.items() if k != "images_per_second"} for line in log(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert lines[0] == lines[1]


def test_it_may_be_asked_for_by_a_run_that_goes_on(tmp_path):
    run(tmp_path, measured=False)
    config = {**TINY, "held_out": "mnist-5k", "held_out_every": 3}
    trainer = Trainer(RunConfig.from_dict(config), tmp_path, None, made_up(28), made_up(5, seed=1))
    trainer.run(resume=True)
    assert RunConfig.from_file(tmp_path / "config.json").held_out == "mnist-5k"


@pytest.mark.parametrize("pictures", [40, 700])
def test_its_standard_error_is_that_of_many_sets(pictures):
    """Each with other pictures, noise and times; few pictures are taken many times, and are no more for that."""
    objective, runs = Denoising(cosine(), "v", told=()), 100
    found = [
        HeldOut(made_up(pictures, seed), objective, seed).loss(Silent(), 64, torch.device("cpu"))
        for seed in range(runs)
    ]
    spread = statistics.stdev(loss for loss, _ in found)
    said = math.sqrt(statistics.mean(error**2 for _, error in found))
    assert abs(said / spread - 1) < 4 / math.sqrt(2 * (runs - 1))  # four standard errors of a standard deviation


def test_losses_that_follow_from_the_time_have_no_error():
    """But for what a sixteenth of the times leaves: a sixteenth, of a number that is known to 9 %."""
    t = torch.linspace(0, 1, 512)[torch.randperm(512, generator=torch.Generator().manual_seed(0))]
    assert standard_error(t.double(), t, 64) / float(t.std() / 512**0.5) == pytest.approx(1 / 16, rel=0.4)
    assert standard_error(torch.ones(512).double(), t, 64) == 0


def test_the_draw_is_the_same_whatever_is_computed_at_once():
    held_out = HeldOut(made_up(70), Denoising(cosine(), "v", told=()), 0)
    losses = [held_out.loss(Silent(), piece, torch.device("cpu"))[0] for piece in (64, 7)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert (
        losses[0]
        != HeldOut(made_up(70), Denoising(cosine(), "v", told=()), 1).loss(Silent(), 64, torch.device("cpu"))[0]
    )


@pytest.mark.parametrize(("n", "draws"), [(5, 515), (DRAWS, DRAWS), (700, 700), (MOST + 50, MOST)])
def test_small_sets_are_taken_several_times_and_large_ones_in_part(n, draws):
    seen = []

    class Counted(Silent):
        def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            seen.append(len(x))
            return super().forward(x)

    HeldOut(made_up(n), Denoising(cosine(), "v", told=()), 0).loss(Counted(), 64, torch.device("cpu"))
    assert sum(seen) == draws


def test_a_classifier_is_measured_on_pictures_as_they_are():
    """A network of fixed answers: its cross-entropy in closed form."""
    logits = torch.tensor([2.0, 0.0, 0.0])

    class Answers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert all((picture[1:] == picture[1:].flatten()[0]).all() for picture in x.squeeze(1))  # not moved
            return logits.expand(len(x), 3)

    data = made_up(9)
    loss, _ = HeldOut(data, Classification(smoothing=0), 0).loss(Answers(), 4, torch.device("cpu"))
    assert loss == pytest.approx(float((logits.exp().sum().log() - logits).mean()), rel=1e-6)


# From what a configuration says ---------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """Two sets of three classes, with one picture in each."""
    for i, kind in enumerate(("train", "held-out")):
        for j, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / kind / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (0, 80 * j, 100 * i)).save(tmp_path / kind / name / "1.png")
    return tmp_path


def built(folders: Path, **changes: Any) -> Images:
    told = {"data": f"folder:{folders / 'train'}", "held_out": f"folder:{folders / 'held-out'}", "labels": "folders"}
    config = RunConfig.from_dict({**told, **changes})
    return build_held_out(config, load(config.data, labels=config.labels))


def test_a_folder_has_the_labels_of_its_names(folders):
    """Also where one lacks: by number, the cats would be bees."""
    assert built(folders).conditions["y"].tolist() == [0, 1, 2]
    (folders / "held-out" / "bee" / "1.png").unlink()
    found = built(folders)
    assert found.conditions["y"].tolist() == [0, 2]
    assert found.class_names == ("ant", "bee", "cat")
    (folders / "held-out" / "cat").rename(folders / "held-out" / "cow")
    with pytest.raises(ValueError, match=r"a subfolder 'cow', which is no class to train on \(ant, bee, cat\)"):
        built(folders)


def test_pictures_that_are_also_trained_on_are_told(folders):
    (folders / "held-out" / "bee" / "2.png").write_bytes((folders / "train" / "ant" / "1.png").read_bytes())
    with pytest.warns(UserWarning, match="1 of 4 held-out pictures are also trained on"):
        built(folders)


def test_they_are_brought_to_the_size_that_is_trained_on(folders):
    Image.new("RGB", (20, 30), "red").save(folders / "held-out" / "ant" / "1.png")
    assert built(folders).shape == (3, 8, 8)


def test_the_test_split_of_a_named_set_is_held_out():
    data = load("mnist-5k")
    assert torch.equal(build_held_out(RunConfig(held_out="mnist-5k"), data).x, load("mnist-5k", "test").x)
    assert build_held_out(RunConfig(), data) is None
    with pytest.raises(ValueError, match="unknown data set 'mnist-6k'"):
        build_held_out(RunConfig(held_out="mnist-6k"), data)


def test_other_pictures_than_are_trained_on_are_refused(folders):
    with pytest.raises(ValueError, match=r"are 3×28×28 with no labels, those to train on 1×28×28 with y"):
        build_held_out(RunConfig(held_out=f"folder:{folders / 'held-out'}"), load("mnist-5k"))
