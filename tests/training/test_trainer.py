"""Runs in a folder: the loop against one written out by hand, and the same weights whatever happens on the way.

This file is also the program of a tiny run, which the tests start in processes of their own:
`python test_trainer.py FOLDER '{"steps": 30}'`, and so on for more of them.
"""

import contextlib
import copy
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from _support.full_disk import disk_with_room_for
from diffusion_book import _files, losses
from diffusion_book.data import Images
from diffusion_book.training import CheckpointError, RunConfig, Trainer, checkpoint
from diffusion_book.training.checkpoint import flatten, unflatten
from diffusion_book.training.order import _order, batch_index, seed_of

KILLS = int(os.environ.get("DIFFUSION_BOOK_KILLS", "2"))

UNET = {"kind": "unet", "channels": 8, "channel_mults": [1], "attention_levels": [], "groups": 4, "dropout": 0.1}
CLASSIFIER = {"kind": "classifier", "channels": 4, "features": 8}
TINY = {
    "network": UNET,
    "batch_size": 8,
    "steps": 12,
    "warmup": 3,
    "condition_dropout": 0.2,
    "precision": "fp32",
    "log_every": 2,
    "preview_every": 0,
    "checkpoint_every": 3,
    "seed": 4,
}


def tiny(**changes: Any) -> RunConfig:
    return RunConfig.from_dict({**TINY, **changes})


def pictures() -> Images:
    """28 pictures, so that an epoch ends in the midst of a batch of 8."""
    x = 2 * torch.rand(28, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    return Images(x, {"y": torch.arange(28) % 3}, "made up")


def run(folder: Path, resume: bool = False, preview: Any = None, **changes: Any) -> nn.Module:
    return Trainer(tiny(**changes), folder, preview, pictures()).run(resume)


def log(folder: Path) -> list[dict[str, Any]]:
    """All lines of the log, without the one number that the clock decides."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def by_time(line: dict[str, Any]) -> torch.Tensor:
    """The losses by time of a line, NaN where there was none."""
    values = [float("nan") if value is None else value for value in line["loss_by_time"]]
    return torch.tensor(values, dtype=torch.float64)


def outcome(folder: Path) -> tuple[Any, ...]:
    """All that a run leaves: hashes of weights, average, moments and sums; its log; the steps of its checkpoints."""
    kept = checkpoint.checkpoints(folder / "checkpoints")
    manifest = json.loads((kept[-1] / "checkpoint.json").read_text())
    return manifest, log(folder), [path.name for path in kept]


def parts(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    newest = checkpoint.latest(folder / "checkpoints")
    assert newest is not None
    return checkpoint.load(newest)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


# The loop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decay", "flip", "cycles"), [("cosine", False, ()), ("none", True, ()), ("cosine", False, (2,))]
)
def test_it_is_the_loop_written_out_by_hand(decay, flip, cycles, tmp_path):
    """Seven steps of AdamW, its rate, clipping and average, from the same start on the same draws: the same bits.

    A new cycle is a new run of five steps that is given the average, but for its pictures and draws, which go on.
    """
    config = tiny(steps=7, decay=decay, grad_clip=0.5, flip=flip, cycles=cycles)
    trainer, data = Trainer(config, tmp_path, data=pictures()), pictures()
    network, objective = copy.deepcopy(trainer.network).train(), trainer.objective
    found = trainer.run()

    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for step in range(7):
        begun = 2 if cycles and step >= 2 else 0
        if step in cycles:
            network.load_state_dict(average.state_dict())
            optimiser = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        if step - begun < 3:
            rate = 1e-3 * (step - begun + 1) / 3
        else:
            cosine = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - begun - 3) / (4 - begun)))))
            rate = 1e-3 * (cosine if decay == "cosine" else 1.0)
        optimiser.param_groups[0]["lr"] = rate
        index = batch_index(28, 8, step, config.seed)
        generator = torch.Generator().manual_seed(seed_of(config.seed, "batch", step))
        x0, conditions = data.take(index)
        if flip:
            mirrored = torch.rand(8, generator=generator) < 0.5
            x0 = torch.stack([x.flip(2) if turn else x for x, turn in zip(x0, mirrored)])
        batch = objective.draw(x0, conditions, generator)
        torch.manual_seed(seed_of(config.seed, "dropout", step, 0))
        optimiser.zero_grad()
        objective.loss(network, batch).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters()):
                mean.lerp_(weight, 1 - min(0.999, (1 + step - begun) / (10 + step - begun)))
    for expected, value in zip(average.state_dict().values(), found.state_dict().values()):
        assert torch.equal(expected, value)
    for expected, value in zip(network.state_dict().values(), trainer.network.state_dict().values()):
        assert torch.equal(expected, value)


def test_it_returns_the_average_ready_to_sample(whole, tmp_path):
    network = run(tmp_path)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    saved = parts(tmp_path)
    for name, value in network.state_dict().items():
        assert torch.equal(value, saved["ema"][name])
    assert any(not torch.equal(saved["ema"][name], value) for name, value in saved["network"].items())


def test_a_classifier_trains_and_its_log_has_no_times(tmp_path):
    network = run(tmp_path, network=CLASSIFIER, condition_dropout=0.0, log_every=1, decay="none")
    assert network.config.classes == 3
    lines = log(tmp_path)
    assert [line["loss_by_time"] for line in lines] == [[]] * 12
    assert 0.5 < lines[0]["loss"] < 3  # ln 3 = 1.1 is that of a guess


def test_bfloat16_keeps_weights_average_and_moments_in_float32(tmp_path):
    run(tmp_path, precision="bf16", steps=2)
    kinds = {value.dtype for tensors in parts(tmp_path).values() for value in tensors.values()}
    assert kinds == {torch.float32, torch.float64}  # the latter are the sums of the log


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate, tmp_path):
    """After one step the first moment is a tenth of the gradient. Sums in another order differ by rounding alone:
    some 1e-7 of the largest entry, times the few hundred terms' square root."""
    changes = {"steps": 1, "network": {**UNET, "dropout": 0.0}, "batch_size": 16}
    run(tmp_path / "whole", **changes)
    Trainer(tiny(), tmp_path / "another", data=pictures())  # which must not matter to the next
    trainer = Trainer(tiny(accumulate=accumulate, **changes), tmp_path / "parts", data=pictures())
    Trainer(tiny(), tmp_path / "another", data=pictures())
    trainer.run()
    expected, found = parts(tmp_path / "whole")["optimiser"], parts(tmp_path / "parts")["optimiser"]
    assert set(expected) == set(found)
    for name, value in expected.items():
        if name.endswith("exp_avg"):
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6 * float(value.abs().max()) + 1e-9)
    one, other = log(tmp_path / "whole")[0], log(tmp_path / "parts")[0]
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    torch.testing.assert_close(by_time(other), by_time(one), rtol=1e-5, atol=0, equal_nan=True)


def test_a_batch_that_cannot_be_cut_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size = 8 cannot be cut into 3 equal parts \(1 processes × accumulate"):
        Trainer(tiny(accumulate=3), tmp_path, data=pictures())


# The log -------------------------------------------------------------------------------------------------------


def test_the_log_says_what_happened(whole):
    lines = log(whole)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert [line["images"] for line in lines] == [16, 32, 48, 64, 80, 96]
    rates = [1e-3 * 2 / 3] + [
        1e-3 * (1 + torch.cos(torch.tensor(torch.pi * k / 9)).item()) / 2 for k in (0, 2, 4, 6, 8)
    ]
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates)


def test_the_last_step_is_logged_and_saved_whatever_its_number(tmp_path):
    run(tmp_path, steps=5, log_every=4, checkpoint_every=4)
    assert [line["step"] for line in log(tmp_path)] == [4, 5]
    assert outcome(tmp_path)[2] == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize(("schedule", "prediction", "T"), [("linear", "v", 20), ("flow", "u", None)])
def test_loss_by_time_is_that_of_the_losses(schedule, prediction, T, tmp_path):
    """One step on 64 examples at the first weights, whose losses are known before the run."""
    network = {**UNET, "dropout": 0.0}
    config = tiny(batch_size=64, steps=1, network=network, schedule=schedule, prediction=prediction, T=T, accumulate=2)
    trainer, data = Trainer(config, tmp_path, data=pictures()), pictures()
    index = batch_index(28, 64, 0, config.seed)
    generator = torch.Generator().manual_seed(seed_of(config.seed, "batch", 0))
    batch = trainer.objective.draw(*data.take(index), generator)
    with torch.no_grad():
        loss = trainer.objective.loss(trainer.network, batch)
    trainer.run()
    expected = losses.by_time(loss.double(), batch["t"], T or 1.0, 10)
    (line,) = log(tmp_path)
    torch.testing.assert_close(by_time(line), expected, rtol=1e-5, atol=0, equal_nan=True)
    assert line["loss"] == pytest.approx(loss.mean().item(), rel=1e-5)


def test_a_part_of_the_times_that_no_example_had_is_null(tmp_path):
    run(tmp_path, batch_size=2, steps=1)
    (line,) = log(tmp_path)
    assert sum(value is not None for value in line["loss_by_time"]) in (1, 2)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_shows_the_same(whole):
    for name in ("loss", "learning_rate", "grad_norm"):
        expected = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in log(whole)]
        assert scalars(whole, name) == expected
    assert len(scalars(whole, "loss_by_time/9")) > 0


def test_without_tensorboard_it_runs_the_same(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as where it is not installed
    run(tmp_path)
    assert outcome(tmp_path) == outcome(whole)
    assert not (tmp_path / "tensorboard").exists()


def test_nothing_heavy_is_imported_before_it_is_used(tmp_path):
    code = (
        "import sys; from diffusion_book.training import RunConfig, Trainer; from test_trainer import *\n"
        "assert not {'accelerate', 'mlxtend', 'yaml', 'tensorboard'} & set(sys.modules)\n"
        f"trainer = Trainer(tiny(), {str(tmp_path)!r}, data=pictures())\n"
        "assert 'tensorboard' not in sys.modules and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, env=environment())
    assert not list(tmp_path.iterdir())  # nor is anything written


# Draws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch_size"), [(28, 8), (10, 10), (7, 20), (5, 1), (3, 7)])
def test_every_example_is_seen_once_an_epoch(n, batch_size):
    steps = 5 * n
    seen = torch.cat([batch_index(n, batch_size, step, seed=1) for step in range(steps)])
    assert len(seen) == steps * batch_size
    epochs = seen.reshape(-1, n)
    assert bool((epochs.sort(1).values == torch.arange(n)).all())
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 1  # each in an order of its own
    assert not torch.equal(seen, torch.cat([batch_index(n, batch_size, step, seed=2) for step in range(steps)]))


def test_the_order_is_the_same_whatever_the_default_device():
    expected = batch_index(7, 20, 3, seed=5)
    _order.cache_clear()
    with torch.device("meta"):
        assert torch.equal(batch_index(7, 20, 3, seed=5), expected)


def test_orders_of_epochs_are_uniform():
    """Of three examples there are six orders; χ² with 5 degrees of freedom is beyond 25.7 once in 10,000 times."""
    orders = [tuple(batch_index(3, 3, step, seed=0).tolist()) for step in range(3000)]
    counts = torch.tensor([orders.count(order) for order in set(orders)], dtype=torch.float64)
    assert len(counts) == 6
    assert float(((counts - 500) ** 2 / 500).sum()) < 25.7


def test_seeds_of_two_purposes_differ_and_fit_a_generator():
    seeds = [seed_of(seed, name, step) for seed in (0, 1) for name in ("batch", "epoch") for step in range(500)]
    assert len(set(seeds)) == len(seeds)  # 2000 draws of 2³² coincide with probability 5e-4: these do not
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_the_callers_generator_does_not_matter_and_is_left_alone(whole, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert outcome(tmp_path) == outcome(whole)


def test_another_seed_gives_other_weights(whole, tmp_path):
    run(tmp_path, seed=5)
    assert outcome(tmp_path)[0]["sha256"]["network"] != outcome(whole)[0]["sha256"]["network"]


# Previews and checkpoints --------------------------------------------------------------------------------------


def test_previews_are_drawn_with_the_average_and_change_nothing(whole, tmp_path):
    seen = []

    def preview(network: nn.Module, path: Path) -> None:
        torch.randn(3)  # a careless one
        assert not network.training
        path.write_text("a picture")
        seen.append({name: value.clone() for name, value in network.state_dict().items()})

    run(tmp_path, preview=preview, preview_every=5)
    names = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert names == ["step-00000005.png", "step-00000010.png", "step-00000012.png"]
    assert outcome(tmp_path) == outcome(whole)
    assert all(torch.equal(seen[-1][name], value) for name, value in parts(tmp_path)["ema"].items())


def test_checkpoints_rotate_and_those_to_keep_stay(tmp_path):
    run(tmp_path, checkpoint_every=4, keep=1, keep_steps=[2, 8])
    assert outcome(tmp_path)[2] == ["step-00000002", "step-00000008", "step-00000012"]


def test_an_optimisers_state_survives_names():
    weights = [nn.Parameter(torch.randn(3, generator=torch.Generator())) for _ in range(12)]
    optimiser = torch.optim.AdamW(weights)
    sum((w**2).sum() for w in weights).backward()
    optimiser.step()
    state = optimiser.state_dict()
    again = unflatten(flatten(state), torch.optim.AdamW(weights).state_dict())
    assert again["param_groups"] == state["param_groups"]
    assert list(again["state"]) == list(state["state"])
    for index, tensors in state["state"].items():
        assert all(torch.equal(again["state"][index][name], value) for name, value in tensors.items())


# Going on ------------------------------------------------------------------------------------------------------


class PowerCutError(Exception):
    """What ends a run at a chosen step."""


def cut_after(step: int) -> dict[str, Any]:
    def preview(network: nn.Module, path: Path) -> None:
        raise PowerCutError

    return {"preview": preview, "preview_every": step}


@pytest.mark.parametrize("step", [1, 3, 7, 8, 11])
def test_a_run_that_was_cut_goes_on_to_the_same_end(step, whole, tmp_path):
    """Before the first checkpoint, at one, between two, where an epoch ends, before the last step."""
    with pytest.raises(PowerCutError):
        run(tmp_path, **cut_after(step))
    run(tmp_path, resume=True)
    assert outcome(tmp_path) == outcome(whole)
    steps = [event for event, _ in scalars(tmp_path, "loss")]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_a_run_that_is_done_is_done(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    network = run(tmp_path, resume=True)
    assert outcome(tmp_path) == outcome(whole)
    assert all(torch.equal(value, parts(whole)["ema"][name]) for name, value in network.state_dict().items())


def test_a_run_is_not_begun_over_another(whole):
    before = outcome(whole)
    with pytest.raises(CheckpointError, match="holds a run that reached step 12; go on with it by --resume"):
        run(whole)
    assert outcome(whole) == before


def test_going_on_from_nothing_is_said(whole, tmp_path):
    """A misspelt folder is a new run; one that was killed before its first checkpoint, too."""
    with pytest.warns(UserWarning, match=rf"no checkpoint in {tmp_path} to go on from; the run starts anew"):
        run(tmp_path, resume=True)
    assert outcome(tmp_path) == outcome(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(tmp_path, resume=True)


def test_a_run_has_its_folder_for_itself(whole, tmp_path):
    """Stopped, not ended, the first still has it; killed it has not, and the second goes on to the same end."""
    process = start(tmp_path, steps=12, checkpoint_every=3, preview_every=0)
    try:
        while not reached(tmp_path):
            assert process.poll() is None
            time.sleep(1e-3)
        process.send_signal(signal.SIGSTOP)
        before = sorted(tmp_path.rglob("*"))
        for resume in (True, False):
            with pytest.raises(
                CheckpointError, match=rf"another process is training in {tmp_path}; wait until it ends"
            ):
                run(tmp_path, resume=resume)
        assert sorted(tmp_path.rglob("*")) == before
    finally:
        process.kill()
        process.wait()
    run(tmp_path, resume=True)
    assert outcome(tmp_path) == outcome(whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 5), ("steps", 6), ("learning_rate", 1e-4), ("network", {**UNET, "channels": 16}), ("batch_size", 4)],
)
def test_a_run_is_not_gone_on_with_by_another_configuration(name, value, whole):
    before = outcome(whole)
    with pytest.raises(CheckpointError, match=f"was begun with {name} = .*, and now {name} = .* is asked for"):
        run(whole, resume=True, **{name: value})
    assert outcome(whole) == before


def test_what_does_not_touch_weights_may_change_and_tuples_are_lists(whole, tmp_path):
    with pytest.raises(PowerCutError):
        run(tmp_path, **cut_after(7))
    network = {**UNET, "channel_mults": (1,), "attention_levels": ()}
    run(tmp_path, resume=True, network=network, keep=5, log_every=1, keep_steps=(11,))
    assert outcome(tmp_path)[0] == outcome(whole)[0] | {"sha256": outcome(tmp_path)[0]["sha256"]}
    for part in ("network", "ema", "optimiser"):
        assert outcome(tmp_path)[0]["sha256"][part] == outcome(whole)[0]["sha256"][part]


@pytest.mark.parametrize(
    ("network", "free"),
    [({**UNET, "dropout": 0.0}, True), (UNET, False), (CLASSIFIER, False)],
    ids=["neither", "dropout", "batch norm"],
)
def test_the_number_of_pieces_may_change_where_no_layer_asks_for_it(network, free, tmp_path):
    """Batch norm takes its statistics of a piece, and dropout draws for each: other pieces are then another run."""
    changes = {"network": network, "condition_dropout": 0.0}
    with pytest.raises(PowerCutError):
        run(tmp_path, **changes, **cut_after(7))
    before = outcome(tmp_path)
    if free:
        run(tmp_path, resume=True, accumulate=4, **changes)
        return
    with pytest.raises(CheckpointError, match=r"other processes × accumulate \(1 × 1…, now 1 × 4…\)"):
        run(tmp_path, resume=True, accumulate=4, **changes)
    assert outcome(tmp_path) == before
    run(tmp_path, resume=True, **changes)


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"accumulate": 8}], ids=str)
def test_pieces_of_one_example_are_refused_where_there_is_batch_norm(changes, tmp_path):
    with pytest.raises(ValueError, match="a piece is one example: give a batch_size of at least two for each process"):
        run(tmp_path / "run", network=CLASSIFIER, condition_dropout=0.0, **changes)
    assert not (tmp_path / "run").exists()
    run(tmp_path / "run", steps=1, **changes)  # a U-Net has no batch norm


# Float16 -------------------------------------------------------------------------------------------------------


class Half:
    """An objective whose network computes in float16, slowly, as a CPU does."""

    def __init__(self, objective: Any) -> None:
        self.schedule, self.draw, self.objective = objective.schedule, objective.draw, objective

    def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast("cpu", torch.float16):
            return self.objective.loss(network, batch)


def scaled(folder: Path, scale: float, growth_interval: int = 2000, half: bool = False, **changes: Any) -> Trainer:
    """A trainer as for precision = "fp16" on a GPU, but for where it computes."""
    preview = changes.pop("preview", None)
    trainer = Trainer(tiny(**changes), folder, preview, pictures())
    assert not trainer.scaler.is_enabled()
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth_interval)
    if half:
        trainer.objective = Half(trainer.objective)
    return trainer


def test_a_scaled_loss_changes_nothing_where_nothing_overflows(whole, tmp_path):
    """A power of two is exact in float32: clipped after it is taken off, gradients are the same to the last bit."""
    scaled(tmp_path, 2.0**30, growth_interval=5).run()
    manifest, lines, kept = outcome(tmp_path)
    assert manifest["sha256"].pop("scaler")
    assert (manifest, lines, kept) == outcome(whole)
    assert parts(tmp_path)["scaler"]["scale"] == 2.0**32  # doubled after steps 5 and 10
    assert parts(tmp_path)["scaler"]["_growth_tracker"] == 2


def test_steps_whose_gradient_overflows_are_left_out_and_only_they(tmp_path):
    """The run against one by hand without those steps: a step left out moves neither weights nor moments nor average,
    has no norm in the log, and yet counts for the learning rate and the average's warm-up."""
    trainer, data = scaled(tmp_path, 2.0**127, steps=7, log_every=1, weight="vdm"), pictures()
    network, objective = copy.deepcopy(trainer.network).train(), trainer.objective
    found = trainer.run()

    made = {line["step"] - 1: line["grad_norm"] for line in log(tmp_path) if line["grad_norm"] is not None}
    assert 1 <= 7 - len(made) <= 4
    assert trainer.scaler.get_scale() == 2.0 ** (127 - 7 + len(made))
    assert scalars(tmp_path, "grad_norm") == [(step + 1, pytest.approx(norm)) for step, norm in made.items()]

    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for step in made:
        share = (step + 1) / 3 if step < 3 else 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - 3) / 4))))
        optimiser.param_groups[0]["lr"] = 1e-3 * share
        index = batch_index(28, 8, step, 4)
        generator = torch.Generator().manual_seed(seed_of(4, "batch", step))
        batch = objective.draw(*data.take(index), generator)
        torch.manual_seed(seed_of(4, "dropout", step, 0))
        optimiser.zero_grad()
        objective.loss(network, batch).mean().backward()
        assert nn.utils.clip_grad_norm_(network.parameters(), 1.0) == made[step]
        optimiser.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters()):
                mean.lerp_(weight, 1 - min(0.999, (1 + step) / (10 + step)))
    for expected, value in zip(average.state_dict().values(), found.state_dict().values()):
        assert torch.equal(expected, value)
    for expected, value in zip(network.state_dict().values(), trainer.network.state_dict().values()):
        assert torch.equal(expected, value)


@pytest.mark.parametrize("step", [4, 8, 10])
def test_in_float16_a_run_that_was_cut_goes_on_to_the_same_end(step, tmp_path):
    """The network in float16; a scale that doubles every second step and overflows on the way."""
    options = {"growth_interval": 2, "half": True, "log_every": 1}
    scaled(tmp_path / "whole", 2.0**17, **options).run()
    norms = [line["grad_norm"] for line in log(tmp_path / "whole")]
    assert 2 <= norms.count(None) <= 8
    with pytest.raises(PowerCutError):
        scaled(tmp_path / "cut", 2.0**17, **options, **cut_after(step)).run()
    scaled(tmp_path / "cut", 1.0, **options).run(resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_in_float16_losses_are_those_of_float32_to_its_rounding(tmp_path):
    """float16 rounds to 2⁻¹¹, and each of some ten layers does; the weights follow."""
    changes = {"steps": 30, "log_every": 1}
    run(tmp_path / "single", **changes)
    scaled(tmp_path / "half", 2.0**16, half=True, **changes).run()
    single, half = ([line["loss"] for line in log(tmp_path / name)] for name in ("single", "half"))
    assert half == pytest.approx(single, rel=10 * 2**-11)
    assert half != single


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_scaler_does_not_hide_what_is_not_finite_at_any_scale(bad, tmp_path):
    trainer = scaled(tmp_path, 2.0**3, steps=12, checkpoint_every=3)
    objective = trainer.objective

    class Bad(Half):
        def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            loss = objective.loss(network, batch)
            if trainer.step < 5:
                return loss
            return loss / 0 if bad == "loss" else loss + (0 * loss).sqrt()

    trainer.objective = Bad(objective)
    with pytest.raises(FloatingPointError, match=rf"the {bad} became (nan|inf) before step .*; .*step-0000000[36]"):
        trainer.run()


def test_a_scaler_begins_anew_where_a_checkpoint_has_none(whole, tmp_path):
    """As on a GPU whose "auto" is float16, for a run that was begun on one where it is bfloat16."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000012")
    scaled(tmp_path, 2.0**20).run(resume=True)
    assert parts(tmp_path)["scaler"]["scale"] == 2.0**20
    run(tmp_path, resume=True)  # and one that is not asked for is left alone


# What can go wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1000, 5000])
def test_a_full_disk_stops_a_run_that_goes_on_once_there_is_room(room, whole, tmp_path, capsys):
    """No room to begin; none for the log; none for a checkpoint, of which a part is some 10,000 bytes."""
    with pytest.raises(PowerCutError):
        run(tmp_path, **cut_after(7))
    before = outcome(tmp_path)
    message = r"(cannot|could not) be written to .*File too large.*; the last good (one|checkpoint) is .*step-00000006"
    with disk_with_room_for(room), pytest.raises(CheckpointError, match=message):
        run(tmp_path, resume=True, log_every=1)
    assert outcome(tmp_path)[0] == before[0]
    assert outcome(tmp_path)[2] == before[2]
    run(tmp_path, resume=True)
    assert outcome(tmp_path)[0] == outcome(whole)[0]


OWN_DISK = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
OWN_DISK += ['mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"']
"""A disk of 8 MB, mounted on the folder that is the next word, for the program that the rest starts, and it alone."""

WIDE = {"network": {**UNET, "channels": 20}, "checkpoint_every": 1, "keep": 100}


def until_it_is_full(folder: Path, real: bool) -> None:
    """Keep checkpoints, of about a megabyte each, until the disk is full, make room, and go on to the end."""
    if real:
        full: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    else:  # after some checkpoints
        with pytest.raises(PowerCutError):
            run(folder, **WIDE, **cut_after(4))
        full = disk_with_room_for(100_000)
    reason = "No space left on device" if real else "File too large"
    message = rf"(cannot|could not) be written to .*{reason}.*; the last good (one|checkpoint) is (\S*step-\d+)"
    with full, pytest.raises(CheckpointError, match=message) as error:
        run(folder, resume=True, **WIDE)
    newest = checkpoint.latest(folder / "checkpoints")
    assert re.search(message, str(error.value))[3] == str(newest)
    step, saved = checkpoint.load(newest)
    assert 0 < step < 12
    assert all(bool(value.isfinite().all()) for value in saved["ema"].values())
    for old in checkpoint.checkpoints(folder / "checkpoints")[:-1]:
        shutil.rmtree(old)
    run(folder, resume=True, **{**WIDE, "keep": 1})
    print(json.dumps(outcome(folder)[0]))


def test_a_small_disk_that_is_really_full_leaves_a_checkpoint_from_which_the_run_ends_the_same(tmp_path):
    """On a tmpfs where one may be mounted, and else by a limit on the size of a file, with a warning."""
    (tmp_path / "disk").mkdir()
    mount = [*OWN_DISK, str(tmp_path / "disk")]
    real = shutil.which("unshare") is not None and subprocess.run([*mount, "true"], capture_output=True).returncode == 0
    if not real:
        warnings.warn("no tmpfs can be mounted here: a limit on files stands for a full disk", stacklevel=1)
    code = f"from test_trainer import *; until_it_is_full(Path({str(tmp_path / 'disk' / 'run')!r}), {real})"
    program = [sys.executable, "-c", code]
    done = subprocess.run(
        [*mount, *program] if real else program,
        cwd=Path(__file__).parent,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run(tmp_path / "whole", **{**WIDE, "keep": 1})
    assert json.loads(done.stdout) == outcome(tmp_path / "whole")[0]


def test_a_disk_that_fills_up_is_told_where_the_log_finds_it(tmp_path, capsys):
    with contextlib.ExitStack() as disk:

        def preview(network: nn.Module, path: Path) -> None:
            disk.enter_context(disk_with_room_for(1))

        with pytest.raises(
            CheckpointError, match=r"cannot be written to .*File too large.*; there is no checkpoint yet"
        ):
            run(tmp_path, log_every=1, preview=preview, preview_every=2)


@pytest.mark.parametrize("folder", ["file/run", "/proc/run"])
def test_a_folder_that_cannot_be_written_to(folder, tmp_path):
    """Also for root, whom permissions do not bind."""
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CheckpointError, match=r"cannot be written to .*; there is no checkpoint yet. Make room, or give"
    ):
        run(tmp_path / folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not Linux")
def test_advice_is_given_once(tmp_path):
    """A preview that is written whole on a full disk says it, too."""

    def preview(network: nn.Module, path: Path) -> None:
        with _files.whole(path):
            Path("/dev/full").write_bytes(b"no room")

    with pytest.raises(CheckpointError, match=r"cannot be written to .*No space left") as error:
        run(tmp_path, preview=preview, preview_every=2)
    assert str(error.value).lower().count("make room") == 1
    assert str(error.value).count("written") == 2  # to the folder, and to one that can be


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_still_good(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "checkpoints" / "step-00000012"
    (newest / "ema.safetensors").write_bytes((newest / "ema.safetensors").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"is damaged: .*; remove step-00000012 to go on from step-00000009"):
        run(tmp_path, resume=True)
    shutil.rmtree(newest)
    run(tmp_path, resume=True)
    assert outcome(tmp_path) == outcome(whole)


@pytest.mark.parametrize("change", ["no optimiser", "no log", "another network", "odd names"])
def test_a_checkpoint_of_something_else_is_told(change, whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    found = parts(tmp_path)
    match change:
        case "no optimiser":
            del found["optimiser"]
        case "no log":
            del found["log"]
        case "another network":
            found["network"] = {"w": torch.ones(3)}
        case "odd names":
            found["optimiser"] = {"exp_avg.0": torch.ones(3)}
    checkpoint.save(tmp_path / "checkpoints", 12, found)
    with pytest.raises(CheckpointError, match="step-00000012 is of another network, or not of a run"):
        run(tmp_path, resume=True)


def test_a_checkpoint_of_another_run_is_not_gone_on_from(whole, tmp_path):
    """Put into the folder by hand, with everything in it whole: only its origin is another."""
    run(tmp_path / "other", seed=5)
    mixed = tmp_path / "mixed"
    shutil.copytree(whole, mixed)
    shutil.rmtree(mixed / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", mixed / "checkpoints")
    with pytest.raises(CheckpointError, match=r"step-00000012 belongs to a run with other configuration"):
        run(mixed, resume=True)


@pytest.mark.parametrize("what", ["pixel", "label", "number"])
def test_a_run_is_not_gone_on_with_on_other_images(what, whole, tmp_path):
    data, before = pictures(), outcome(whole)
    if what == "pixel":
        data.x[3, 0, 2, 2] *= -1
    elif what == "label":
        data.conditions["y"][3] = 0 if data.conditions["y"][3] else 1
    else:
        data = Images(data.x[1:], {"y": data.conditions["y"][1:]}, data.name)
    with pytest.raises(CheckpointError, match=rf"belongs to a run with other images \(28 with .*now {len(data)} with"):
        Trainer(tiny(), whole, None, data).run(resume=True)
    assert outcome(whole) == before


def test_a_damaged_log_does_not_stop_a_run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run" / "log.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], b"\xff\xfe", b"{}", b"[1]}", lines[1][:9], *lines[2:]]) + b"\n")
    run(tmp_path / "run", resume=True)
    kept = [log(whole)[i] for i in range(len(lines)) if i != 1]
    assert log(tmp_path / "run") == kept


def test_a_damaged_configuration_is_told(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: Expecting property name"):
        run(tmp_path, resume=True)


def test_a_rate_that_is_far_too_high_leaves_no_checkpoint_that_is_not_finite(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"the (loss|gradient) became (nan|inf) before step .*; lower learning"
    ):
        run(tmp_path, learning_rate=1e12, warmup=0, steps=60, log_every=60, checkpoint_every=1, grad_clip=1e30)
    for tensors in parts(tmp_path).values():
        assert all(bool(torch.isfinite(value).all()) for value in tensors.values())


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_is_found_before_it_is_saved(bad, log_every, tmp_path):
    """√0 has an infinite slope: where the gradient is lost, the loss shows it one step later."""
    trainer = Trainer(tiny(log_every=log_every, checkpoint_every=3), tmp_path, data=pictures())
    objective = trainer.objective

    class TurnsBad:
        schedule, draw = objective.schedule, staticmethod(objective.draw)

        def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            loss = objective.loss(network, batch)
            if trainer.step != 5:
                return loss
            return loss / 0 if bad == "loss" else loss + (0 * loss).sqrt()

    trainer.objective = TurnsBad()
    with pytest.raises(FloatingPointError, match=rf"the {bad} became (nan|inf) before step 6; .*step-00000003"):
        trainer.run()


# Processes -----------------------------------------------------------------------------------------------------


def command(folder: Path, **changes: Any) -> list[str]:
    return [__file__, str(folder), json.dumps(changes)]


def environment() -> dict[str, str]:
    """That of this process, with `_support` found from here."""
    tests = str(Path(__file__).parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": tests}


def start(folder: Path, **changes: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *command(folder, **changes)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def reached(folder: Path) -> int:
    newest = checkpoint.latest(folder / "checkpoints")
    return checkpoint.step_of(newest) if newest else 0


def unfinished(folder: Path) -> bool:
    return any(folder.glob("checkpoints/.unfinished-step-*"))


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path):
    """SIGKILL, by turns at a random moment after the start and as soon as a checkpoint is being written.

    DIFFUSION_BOOK_KILLS says how often. A run that gets to its end in between is compared, and another begun.
    """
    changes = {"steps": 60, "checkpoint_every": 2, "log_every": 3}
    began = time.monotonic()
    assert start(tmp_path / "whole", **changes).wait() == 0
    life = time.monotonic() - began
    expected, folder = outcome(tmp_path / "whole"), tmp_path / "killed"
    moments, kills, torn = random.Random(0), 0, 0
    while kills < KILLS or not torn:
        assert kills < KILLS + 30, "no kill ever hit the writing of a checkpoint"
        process = start(folder, **changes)
        if kills % 2:
            time.sleep(moments.uniform(0, life))
        else:
            wanted = reached(folder) + moments.randrange(0, 20)
            while process.poll() is None and not (reached(folder) >= wanted and unfinished(folder)):
                time.sleep(1e-4)  # leave the processor to the one that is watched
        process.kill()
        if process.wait() == 0:
            assert outcome(folder) == expected
            shutil.rmtree(folder)
            continue
        assert process.returncode == -signal.SIGKILL
        kills += 1
        torn += unfinished(folder)
    assert start(folder, **changes).wait() == 0
    assert outcome(folder) == expected
    assert not unfinished(folder)


SIX = {"steps": 6, "log_every": 1, "accumulate": 2}
ALIKE = {
    **SIX,
    "accumulate": 1,
    "network": {**UNET, "dropout": 0.0},
}  # what a process drops follows from its number, too


def by_two(folder: Path, **runs: dict[str, Any]) -> list[str]:
    """Do runs with two processes, one after the other → the step at which each process began each.

    What `accelerate launch` says of precision and accumulation does not count.
    """
    # On a CPU, too, it is this option that starts more than one process; --cpu --num_processes 2 is silently one.
    options = "--multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0 --dynamo_backend no"
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options.split()]
    launch += ["--mixed_precision", "bf16", "--gradient_accumulation_steps", "4", __file__]
    for name, changes in runs.items():
        launch += [str(folder / name), json.dumps(changes)]
    on_cpu = {**environment(), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launch, env=on_cpu, capture_output=True, text=True)
    killed = any("killed" in changes for changes in runs.values())
    assert (done.returncode != 0) == killed, done.stderr
    return [line.removesuffix(", 1 of 2 processes") for line in done.stdout.splitlines() if "processes" in line]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes: "one" and "two", by their accumulation; "whole"; and "cut", which was killed in step 5."""
    folder = tmp_path_factory.mktemp("two")
    runs = {"one": ALIKE, "two": {**ALIKE, "accumulate": 2}, "whole": SIX, "cut": {**SIX, "killed": 4}}
    assert by_two(folder, **runs) == ["from step 0"] * 8
    return folder


def assert_alike(found: Path, expected: Path) -> None:
    """The same up to the order of sums after six steps on the same batches, of which a third of the images is new.

    A gradient is then off by some 1e-6 of its largest entry: 6e-8, times the few hundred terms' square root. The
    moments are its averages. Adam divides by its size, so a weight whose gradient is a thousandth of the largest is
    off by 1e-3 of its step, and no step is longer than the learning rate.
    """
    rates = sum(line["learning_rate"] for line in log(expected))
    one, other = parts(expected), parts(found)
    assert set(one["optimiser"]) == set(other["optimiser"])
    for name, value in one["optimiser"].items():
        if name.endswith("exp_avg"):
            atol = 5e-6 * float(value.abs().max()) + 1e-9
            torch.testing.assert_close(other["optimiser"][name], value, rtol=0, atol=atol)
    for part in ("network", "ema"):
        for name, value in one[part].items():
            torch.testing.assert_close(other[part][name], value, rtol=0, atol=1e-3 * rates)
    assert len(log(found)) == len(log(expected)) == 6
    for one, other in zip(log(expected), log(found)):
        assert other["images"] == one["images"] == 8 * one["step"]
        for name in ("loss", "grad_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-5)
        torch.testing.assert_close(by_time(other), by_time(one), rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize("pieces", ["one", "two"])
def test_two_processes_give_what_one_gives(pieces, two, tmp_path):
    """Each takes half of every batch, in one piece or in two: weights, average, moments and log."""
    run(tmp_path, **ALIKE)
    assert_alike(two / pieces, tmp_path)


def test_two_processes_that_were_killed_go_on_to_the_same_end(two):
    """To the last bit, dropout included."""
    assert reached(two / "cut") == 3
    assert by_two(two, cut=SIX) == ["from step 3"] * 2
    assert outcome(two / "cut") == outcome(two / "whole")


def test_dropout_in_two_processes_does_not_go_on_in_one(two, tmp_path):
    """Which masks it draws depends on the process: two with two parts each are not one with four, either."""
    shutil.copytree(two / "whole", tmp_path / "whole")
    for accumulate in (1, 2, 4):
        with pytest.raises(CheckpointError, match=rf"processes × accumulate \(2 × 2…, now 1 × {accumulate}…\)"):
            run(tmp_path / "whole", resume=True, **{**SIX, "accumulate": accumulate})


def test_two_processes_of_which_each_has_a_folder_go_on_only_from_the_same_checkpoint(two, tmp_path):
    """As on machines that share no disk: one without the folder, behind, or with other weights of the same step; and
    with a copy. Both processes are told, and neither waits for the other."""
    for case in ("none", "behind", "other", "first", "copy"):
        for process in ("0", "1"):
            shutil.copytree(two / "whole", tmp_path / case / process)
            if case != "behind" or process == "1":
                shutil.rmtree(tmp_path / case / process / "checkpoints" / "step-00000006")
    shutil.rmtree(tmp_path / "none" / "1")
    shutil.rmtree(tmp_path / "first" / "0")
    shutil.rmtree(tmp_path / "other" / "1" / "checkpoints" / "step-00000003")
    shutil.copytree(two / "two/checkpoints/step-00000003", tmp_path / "other/1/checkpoints/step-00000003")

    said = by_two(tmp_path, **{case: {**SIX, "apart": True} for case in ("none", "behind", "other", "first", "copy")})
    three = r"step-00000003 with SHA-256 [0-9a-f]{16}…"
    expected = {
        "none": (three, "no checkpoint"),
        "behind": (three.replace("3", "6", 1), three),
        "other": (three, three),
        "first": ("no checkpoint", three),
    }
    for case, (first, second) in expected.items():
        a, b = tmp_path / case / "0", tmp_path / case / "1"
        message = rf"process 0 found {first} in {a}, and process 1 found {second} in {b}; all need the same folder, .*"
        assert sum(bool(re.fullmatch(message, line)) for line in said) == 2, said
    assert outcome(tmp_path / "copy" / "0") == outcome(two / "whole")


def test_one_process_goes_on_with_what_two_began(two, tmp_path):
    shutil.copytree(two / "two", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000006")
    run(tmp_path / "cut", resume=True, **ALIKE)
    run(tmp_path / "one", **ALIKE)
    assert_alike(tmp_path / "cut", tmp_path / "one")


class Killed:
    """An objective in whose hands the process ends, at a chosen step."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self.trainer, self.step, self.objective = trainer, step, trainer.objective
        self.schedule, self.draw = self.objective.schedule, self.objective.draw

    def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.trainer.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.objective.loss(network, batch)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.destroy_process_group = lambda *_: None  # processes stay together for the next run
    for folder, text in zip(sys.argv[1::2], sys.argv[2::2]):
        changes = json.loads(text)
        killed, apart = changes.pop("killed", None), changes.pop("apart", False)
        if apart:
            folder = f"{folder}/{os.environ['RANK']}"
        trainer = Trainer(tiny(**changes), folder, data=pictures())
        processes = trainer.accelerator.num_processes
        print(f"from step {reached(Path(folder))}, 1 of {processes} processes\n", end="", flush=True)
        if killed is not None:
            trainer.objective = Killed(trainer, killed)
        try:
            trainer.run(resume=True)
        except CheckpointError as error:
            if not apart:
                raise
            print(f"{error}, 1 of {processes} processes\n", end="", flush=True)
