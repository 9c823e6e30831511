"""Checkpoints: whole or not there, rotated, and believed only where every byte is the one that was written."""

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from _support.full_disk import disk_with_room_for
from diffusion_book._files import write_whole
from diffusion_book.training.checkpoint import (
    CheckpointError,
    checkpoints,
    latest,
    load,
    name_of,
    remove_unfinished,
    save,
    step_of,
)


def parts(value: float = 1.0) -> dict[str, dict[str, Tensor]]:
    return {
        "network": {"w": torch.full((3, 4), value), "count": torch.tensor(7)},
        "optimiser": {"0.step": torch.tensor(2.0), "0.exp_avg": torch.randn(5, generator=torch.Generator())},
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# What is written is what is read -------------------------------------------------------------------------------


def test_what_was_saved_is_loaded_bit_by_bit(tmp_path):
    original = parts()
    original["network"]["odd"] = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])
    original["network"]["half"] = torch.randn(4, 6).bfloat16().T  # not contiguous
    path = save(tmp_path, 12, original)
    assert path == tmp_path / "step-00000012"
    step, found = load(path)
    assert step == 12
    assert set(found) == set(original)
    for part, tensors in original.items():
        assert set(found[part]) == set(tensors)
        for name, value in tensors.items():
            assert found[part][name].dtype == value.dtype
            assert found[part][name].shape == value.shape
            bits = torch.int32 if value.dtype == torch.float32 else value.dtype
            assert torch.equal(found[part][name].view(bits), value.contiguous().view(bits))


def test_some_parts_can_be_read_without_the_others(tmp_path):
    path = save(tmp_path, 1, parts())
    (path / "optimiser.safetensors").unlink()
    assert set(load(path, ["network"])[1]) == {"network"}
    with pytest.raises(CheckpointError, match="has no part 'emma'; it has network, optimiser"):
        load(path, ["emma"])


def test_nothing_else_is_left(tmp_path):
    save(tmp_path, 1, parts())
    assert set(contents(tmp_path)) == {
        f"step-00000001/{name}" for name in ("checkpoint.json", "network.safetensors", "optimiser.safetensors")
    }


def test_the_order_is_that_of_steps_even_beyond_eight_digits(tmp_path):
    steps = [3, 20, 100, 99_999_999, 100_000_000]
    for step in reversed(steps):
        save(tmp_path, step, parts(), keep=9)
    assert [step_of(path) for path in checkpoints(tmp_path)] == steps
    assert latest(tmp_path) == tmp_path / "step-100000000"


def test_what_is_no_finished_checkpoint_is_none(tmp_path):
    path = save(tmp_path, 5, parts())
    path.rename(tmp_path / "step-00000005-backup")
    (tmp_path / ".unfinished-step-00000006").mkdir()
    (tmp_path / "step-00000007").write_text("a file")
    assert checkpoints(tmp_path) == []
    assert latest(tmp_path) is None
    assert latest(tmp_path / "none") is None


# Rotation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "keep_steps", "stay"),
    [(1, (), [6]), (2, (), [5, 6]), (2, (2, 3), [2, 3, 5, 6]), (2, (6,), [5, 6]), (9, (), [1, 2, 3, 4, 5, 6])],
)
def test_the_newest_stay_and_those_to_keep(keep, keep_steps, stay, tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, parts(step), keep, keep_steps)
    assert [step_of(path) for path in checkpoints(tmp_path)] == stay
    for path in checkpoints(tmp_path):
        step, found = load(path)
        assert step == step_of(path)
        assert found["network"]["w"][0, 0] == step


def test_a_step_that_comes_by_again_is_written_anew(tmp_path):
    save(tmp_path, 1, parts(1.0))
    save(tmp_path, 1, parts(2.0))
    assert load(tmp_path / name_of(1))[1]["network"]["w"][0, 0] == 2
    assert [path.name for path in tmp_path.iterdir()] == [name_of(1)]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    for leftover in (".unfinished-step-00000002", ".unfinished-old-step-00000001"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "network.safetensors").write_bytes(b"half of it")
    remove_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())


# A full disk, a folder that cannot be written to ---------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 10, 150])
def test_on_a_full_disk_the_last_good_checkpoint_stays_as_it_was(room, tmp_path):
    save(tmp_path, 1, parts(1.0), keep=1)
    before = contents(tmp_path)
    with disk_with_room_for(room), pytest.raises(CheckpointError) as raised:
        save(tmp_path, 2, parts(2.0), keep=1)
    assert "step 2 could not be written" in str(raised.value)
    assert "File too large" in str(raised.value)
    assert f"the last good one is {tmp_path / name_of(1)}" in str(raised.value)
    assert "Make room" in str(raised.value)
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob(".unfinished-*"))
    save(tmp_path, 2, parts(2.0), keep=1)  # once there is room
    assert load(tmp_path / name_of(2))[0] == 2


def test_a_disk_that_is_full_from_the_start(tmp_path):
    with disk_with_room_for(10), pytest.raises(CheckpointError, match="there is none yet"):
        save(tmp_path, 2, parts())


def test_a_folder_that_cannot_be_written_to(tmp_path):
    """Also for root, whom permissions do not bind: under a file, and under /proc."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(CheckpointError, match=f"could not be written to {folder} .*; there is none yet"):
            save(folder, 1, parts())


def test_a_small_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "config.json"
    write_whole(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    with disk_with_room_for(100), pytest.raises(OSError, match="File too large"):
        write_whole(path, b"x" * 200)
    assert json.loads(path.read_text()) == {"a": 1}
    write_whole(path, b"text")
    assert path.read_bytes() == b"text"


# Damage --------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, lengthen, empty, flip])
@pytest.mark.parametrize("part", ["network", "optimiser"])
def test_damage_is_found_and_the_way_out_is_told(damage, part, tmp_path):
    save(tmp_path, 1, parts())
    newest = save(tmp_path, 2, parts())
    damage(newest / f"{part}.safetensors")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        load(newest)
    assert f"{part}.safetensors is damaged" in str(raised.value)
    assert "remove step-00000002 to go on from step-00000001" in str(raised.value)
    assert contents(tmp_path) == before


def test_a_missing_file_and_no_other_checkpoint(tmp_path):
    path = save(tmp_path, 1, parts())
    (path / "network.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"network.safetensors cannot be read .*; start the run anew"):
        load(path)


def test_files_of_two_checkpoints_do_not_mix(tmp_path):
    old, new = save(tmp_path, 1, parts(1.0)), save(tmp_path, 2, parts(2.0))
    (new / "network.safetensors").write_bytes((old / "network.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="is damaged"):
        load(new)


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe\x00",
        b'{"step": "x", "sha256": {}, "origin": {}, "format": 2}',
        b'{"step": 1, "sha256": 3, "origin": {}, "format": 2}',
        b'{"step": 1, "sha256": {}}',
        b'{"_class_name": "UNet2DModel"}',
    ],
)
def test_a_foreign_folder_is_told(manifest, tmp_path):
    path = save(tmp_path, 1, parts())
    if manifest is None:
        (path / "checkpoint.json").unlink()
    else:
        (path / "checkpoint.json").write_bytes(manifest)
    with pytest.raises(
        CheckpointError, match=r"is not a checkpoint of this library: checkpoint.json: .*; start the run"
    ):
        load(path)


@pytest.mark.parametrize("format", [1, 3])
def test_another_format_is_told(format, tmp_path):
    path = save(tmp_path, 1, parts())
    manifest = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**manifest, "format": format}))
    with pytest.raises(CheckpointError, match=f"has format {format}, this version reads 2"):
        load(path)


class Bomb:
    """What pickle would run on being read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("known", [False, True])
def test_pickle_is_never_run(known, tmp_path):
    """Neither where it replaced our file, nor where whoever put it there also wrote its hash down."""
    import hashlib

    canary = tmp_path / "canary"
    content = pickle.dumps(Bomb(canary))
    path = save(tmp_path / "run", 1, parts())
    (path / "network.safetensors").write_bytes(content)
    if known:
        manifest = json.loads((path / "checkpoint.json").read_text())
        manifest["sha256"]["network"] = hashlib.sha256(content).hexdigest()
        (path / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="pickled weights can run code" if known else "is damaged"):
        load(path)
    assert not canary.exists()
    pickle.loads(content)  # the bomb is a real one
    assert canary.exists()


def test_the_files_are_plain_safetensors(tmp_path):
    path = save(tmp_path, 1, parts())
    found = safetensors.torch.load_file(path / "network.safetensors")
    assert torch.equal(found["w"], parts()["network"]["w"])
