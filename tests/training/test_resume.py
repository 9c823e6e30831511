"""To train longer: as if that had been asked for at first, or from the average in a new cycle of the learning rate."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_book.data import Images
from diffusion_book.training import CheckpointError, RunConfig, Trainer, checkpoint

UNET = {"kind": "unet", "channels": 8, "channel_mults": [1], "attention_levels": [], "groups": 4, "dropout": 0.1}
TINY = {
    "network": UNET,
    "batch_size": 8,
    "steps": 6,
    "warmup": 2,
    "precision": "fp32",
    "log_every": 2,
    "preview_every": 0,
    "checkpoint_every": 2,
}


def trainer(folder: Path, **changes: Any) -> Trainer:
    x = 2 * torch.rand(28, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    return Trainer(RunConfig.from_dict({**TINY, **changes}), folder, None, Images(x, {}, "made up"))


def assert_same(folder: Path, other: Path) -> None:
    ends = [checkpoint.latest(path / "checkpoints") for path in (folder, other)]
    assert ends[0].name == ends[1].name
    (_, found), (_, expected) = map(checkpoint.load, ends)
    for part in ("network", "ema", "optimiser", "log"):
        assert all(torch.equal(value, expected[part][name]) for name, value in found[part].items()), part
    assert checkpoint.origin(ends[0]) == checkpoint.origin(ends[1])


def test_a_rate_that_stays_goes_on_as_if_more_had_been_asked_for(tmp_path):
    trainer(tmp_path / "whole", steps=11, decay="none").run()
    trainer(tmp_path / "longer", decay="none").run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path / "longer", steps=9, decay="none").run(resume=True)
        trainer(tmp_path / "longer", steps=11, decay="none").run(resume=True)
    assert_same(tmp_path / "longer", tmp_path / "whole")
    config = RunConfig.from_file(tmp_path / "longer" / "config.json")
    assert (config.steps, config.cycles) == (11, ())


@pytest.mark.parametrize("stopped", [None, 4], ids=["at its end", "on the way"])
def test_a_rate_that_falls_begins_a_new_cycle_where_it_was_zero(stopped, tmp_path):
    """The cycle is part of the configuration, so that one that was never stopped can be asked for, too."""
    trainer(tmp_path / "whole", steps=11, cycles=[6]).run()
    trainer(tmp_path / "longer").run()
    if stopped:
        shutil.rmtree(tmp_path / "longer" / "checkpoints" / "step-00000006")
    with pytest.warns(UserWarning, match="begins a new cycle at step 6, where .* zero, from its averaged weights"):
        trainer(tmp_path / "longer", steps=11).run(resume=True)
    assert_same(tmp_path / "longer", tmp_path / "whole")
    assert RunConfig.from_file(tmp_path / "longer" / "config.json").cycles == (6,)


def test_the_same_command_goes_on_with_the_new_cycle_and_a_larger_one_adds_another(tmp_path):
    trainer(tmp_path / "whole", steps=13, cycles=[6, 11]).run()
    trainer(tmp_path / "longer").run()
    with pytest.warns(UserWarning, match="step 6"):
        trainer(tmp_path / "longer", steps=11).run(resume=True)
    shutil.rmtree(tmp_path / "longer" / "checkpoints" / "step-00000011")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what has begun is not told again
        trainer(tmp_path / "longer", steps=11).run(resume=True)
    with pytest.warns(UserWarning, match="step 11"):
        trainer(tmp_path / "longer", steps=13).run(resume=True)
    assert_same(tmp_path / "longer", tmp_path / "whole")


def test_a_run_is_not_shortened_nor_given_other_cycles(tmp_path):
    trainer(tmp_path).run()
    for changes in ({"steps": 4}, {"steps": 9, "cycles": [3]}, {"steps": 9, "decay": "none"}):
        with pytest.raises(CheckpointError, match=r"was begun with (steps|cycles|decay) ="):
            trainer(tmp_path, **changes).run(resume=True)


def test_without_its_configuration_a_checkpoint_knows_what_it_is_of(tmp_path):
    trainer(tmp_path).run()
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="belongs to a run with other configuration"):
        trainer(tmp_path, learning_rate=1e-2).run(resume=True)
    trainer(tmp_path).run(resume=True)


@pytest.mark.parametrize("cycles", [[0], [6], [4, 3], [3, 3], [-1]])
def test_cycles_rise_within_the_run(cycles):
    with pytest.raises(ValueError, match="cycles must rise, from above 0 to below steps = 6"):
        RunConfig.from_dict({**TINY, "cycles": cycles})
