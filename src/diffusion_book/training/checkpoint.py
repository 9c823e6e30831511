"""Checkpoints that are whole or not there at all (chapter 11).

A checkpoint is a folder, `step-00001000`, of safetensors files and a `checkpoint.json` that names each file's SHA-256.
It is written under another name, flushed to the disk, and only then renamed, which a file system does at once: a run
that is killed while it writes leaves the last good checkpoint as it was, and a leftover that the next start removes.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from diffusion_book._files import UNFINISHED, sync, to_disk

MANIFEST = "checkpoint.json"
FORMAT = 2  # 1 did not say of which run a checkpoint is

Parts = dict[str, dict[str, Tensor]]


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; the message says which, and what to do."""


def save(
    folder: Path,
    step: int,
    parts: Parts,
    keep: int = 2,
    keep_steps: Collection[int] = (),
    origin: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a checkpoint, then remove the old ones.

    Args:
        folder: of all checkpoints of a run; made if it is not there.
        parts: tensors by part, such as "network", "ema", "optimiser"; each part is one file.
        keep: how many of the newest stay. keep_steps: of these steps they stay whatever their age.
        origin: what decides the weights besides the step, by name: only a run of the same origin can go on from here.

    Raises:
        CheckpointError: the disk is full or the folder read-only; what was there before still is.
    """
    name = name_of(step)
    unfinished = folder / f"{UNFINISHED}{name}"
    try:
        remove_unfinished(folder)
        unfinished.mkdir(parents=True)
        hashes = {part: _write(unfinished / f"{part}.safetensors", _as_bytes(parts[part])) for part in sorted(parts)}
        manifest = {"format": FORMAT, "step": step, "origin": dict(origin), "sha256": hashes}
        _write(unfinished / MANIFEST, json.dumps(manifest, indent=1).encode())
        sync(unfinished)
        if (folder / name).exists():  # a run that was told to start from an earlier step comes by again
            _remove(folder / name)
        unfinished.rename(folder / name)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        last = latest(folder)
        stands = f"the last good one is {last}" if last else "there is none yet"
        raise no_room(f"the checkpoint of step {step} could not be written to {folder}", error, stands) from error
    for old in checkpoints(folder)[:-keep]:
        if step_of(old) not in keep_steps:
            _remove(old)
    return folder / name


def no_room(what: str, error: BaseException, stands: str) -> CheckpointError:
    """What to say where a run cannot write, and what it can go on from."""
    advice = "Make room, or give a folder that can be written to, and start again with --resume"
    return CheckpointError(f"{what} ({error}); {stands}. {advice}")


def load(checkpoint: Path, only: Collection[str] | None = None) -> tuple[int, Parts]:
    """Read a checkpoint, or only some of its parts → (step, tensors by part).

    Raises:
        CheckpointError: it is no checkpoint of ours, a file is missing, or its content is not what was written.
    """
    step, hashes, _ = _manifest(checkpoint)
    missing = sorted(set(only or ()) - set(hashes))
    if missing:
        raise CheckpointError(f"{checkpoint} has no part {missing[0]!r}; it has {', '.join(hashes)}")
    return step, {part: _read(checkpoint, part, hashes[part]) for part in (hashes if only is None else only)}


def origin(checkpoint: Path) -> dict[str, str]:
    """What `save` was told of the run that wrote a checkpoint.

    Raises:
        CheckpointError: it is no checkpoint of ours.
    """
    return _manifest(checkpoint)[2]


def identity(checkpoint: Path) -> str:
    """Its name and a hash of its manifest, which holds those of all its files: copies have the same, and only they."""
    manifest = checkpoint / MANIFEST
    content = manifest.read_bytes() if manifest.is_file() else b""  # what that is, `load` says
    return f"{checkpoint.name} with SHA-256 {hashlib.sha256(content).hexdigest():.16}…"


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name) and path.is_dir())
    return sorted(found, key=step_of)


def latest(folder: Path) -> Path | None:
    """The newest finished checkpoint, or None."""
    return next(reversed(checkpoints(folder)), None)


def name_of(step: int) -> str:
    """`step-00001000`, so that a listing shows them in order."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The inverse of `name_of`."""
    return int(checkpoint.name.removeprefix("step-"))


def remove_unfinished(folder: Path) -> None:
    """Remove what a run that was killed while writing has left."""
    for leftover in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover)


def flatten(optimiser: dict[str, Any]) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: {"0.exp_avg": …}, by the number of the parameter."""
    return {f"{index}.{name}": value for index, state in optimiser["state"].items() for name, value in state.items()}


def unflatten(tensors: dict[str, Tensor], optimiser: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`, with the groups of a fresh optimiser's state."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": optimiser["param_groups"]}


def _manifest(checkpoint: Path) -> tuple[int, dict[str, str], dict[str, str]]:
    """Step, hashes by part, and origin."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{checkpoint} has format {manifest['format']}, this version reads {FORMAT}; install its version"
            )
        step, hashes, origin = int(manifest["step"]), dict(manifest["sha256"]), dict(manifest["origin"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint} is not a checkpoint of this library: {MANIFEST}: {error!r}; {_advice(checkpoint)}"
        ) from error
    return step, hashes, origin


def _as_bytes(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _write(path: Path, content: bytes) -> str:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        to_disk(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _read(checkpoint: Path, part: str, sha256: str) -> dict[str, Tensor]:
    path = checkpoint / f"{part}.safetensors"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {_advice(checkpoint)}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{path} is damaged: {len(content)} bytes, not those written; {_advice(checkpoint)}")
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:  # its hash is right, so somebody else wrote it
        raise CheckpointError(f"{path} is no safetensors file ({error}); pickled weights can run code") from error


def _advice(damaged: Path) -> str:
    others = [other.name for other in checkpoints(damaged.parent) if other != damaged]
    return f"remove {damaged.name} to go on from {others[-1]}" if others else "start the run anew"


def _remove(checkpoint: Path) -> None:
    """Under another name first: a run that is killed while it removes one leaves no half of a checkpoint."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{UNFINISHED}old-{checkpoint.name}")))
