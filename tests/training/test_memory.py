"""What to change where memory runs out, from what costs least to what costs most."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from _support.memory import REFUSED
from diffusion_book._memory import room_for
from diffusion_book.conditions import Conditions
from diffusion_book.data import Examples
from diffusion_book.nn import build
from diffusion_book.training import RunConfig, Trainer
from diffusion_book.training.memory import ladder, taken

RUNGS = {"data": "folder:x", "size": 32, "batch_size": 12, "network": {"kind": "unet", "size": "digits"}}


def rungs(processes: int = 1, precision: Any = "fp32", **changes: Any) -> list[str]:
    """The settings of the ladder, in order."""
    return re.findall(r"([\w.]+=\w+) \(", ladder(RunConfig.from_dict({**RUNGS, **changes}), processes, precision))


def test_the_order_is_that_of_what_they_cost():
    assert rungs() == ["accumulate=2", "precision=bf16", "network.checkpoint=true", "size=16", "network.channels=16"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"precision": "bf16"}, "precision=bf16"),
        ({"data": "mnist-5k", "size": None}, "size=16"),
        ({"batch_size": 1}, "accumulate=2"),
        ({"network": {"kind": "unet", "size": "digits", "checkpoint": True}}, "network.checkpoint=true"),
        ({"network": {"kind": "unet", "channels": 8, "head_channels": None}}, "network.channels=4"),
    ],
    ids=["already", "a named set", "one picture", "checkpoints", "groups do not fit"],
)
def test_what_does_not_help_is_not_named(changes, missing):
    assert missing not in rungs(**changes)
    assert len(rungs(**changes)) == 4


@pytest.mark.parametrize(
    ("batch", "processes", "now", "then"), [(12, 1, 2, 4), (12, 2, 1, 2), (15, 1, 1, 3), (7, 1, 1, 7), (7, 1, 7, None)]
)
def test_pieces_get_smaller_by_half_or_the_next_that_fits(batch, processes, now, then):
    found = rungs(processes, batch_size=batch, accumulate=now)
    assert (found[0] == f"accumulate={then}") if then else not found[0].startswith("accumulate")


def test_every_rung_is_a_setting_that_a_run_may_have():
    for network in ({"kind": "unet", "size": "digits"}, {"kind": "dit"}):
        for rung in rungs(network=network):
            name, value = rung.split("=")
            value = {"true": True, "bf16": "bf16"}.get(value) or int(value)
            within = {"network": {**network, name.removeprefix("network."): value}}
            build(RunConfig.from_dict({**RUNGS, **(within if "." in name else {name: value})}).network)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"),
    ],
    ids=["python", "cuda", "cublas", "cpu"],
)
def test_memory_runs_out_in_several_words(error):
    with (
        pytest.raises(ValueError, match=r"not enough memory for a step \(.*\); do less") as caught,
        room_for("a step", "do less"),
    ):
        raise error
    assert "More" not in str(caught.value)


def test_another_error_is_left_as_it_is():
    with pytest.raises(RuntimeError, match="shapes"), room_for("a step", "do less"):
        raise RuntimeError("shapes do not fit")


class Huge(Examples):
    """Pictures that no memory holds the noise of."""

    sha256 = "huge"

    def __len__(self) -> int:
        return 4

    def take(self, index: Tensor) -> tuple[Tensor, Conditions]:
        return torch.zeros(1).expand(len(index), 3, 2**22, 2**22), {}


@REFUSED
def test_a_step_that_does_not_fit_ends_with_the_ladder(tmp_path):
    config = RunConfig.from_dict({**RUNGS, "batch_size": 4, "precision": "fp32"})
    with pytest.raises(
        ValueError, match=r"not enough memory for training on 4 pictures at a time \(.*\); try in this order"
    ):
        Trainer(config, tmp_path, None, Huge()).run()


def test_the_memory_that_was_taken_is_at_least_that_of_a_tensor():
    block = torch.ones(2**26)  # 0.27 GB, written to
    found = float(taken(torch.device("cpu")).split()[0])
    assert found > block.numel() * 4 / 1e9
