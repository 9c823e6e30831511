"""A run that goes on: what may be told anew, what decides its weights, and what training longer means (chapter 11)."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from diffusion_book.training import checkpoint
from diffusion_book.training.checkpoint import CheckpointError
from diffusion_book.training.config import RunConfig

HARMLESS = {
    *("log_every", "preview_every", "checkpoint_every", "keep", "keep_steps", "accumulate"),
    *("held_out", "held_out_every"),
}
"""What a run may be told anew when it goes on: it does not touch the weights, see `sees_pieces` for `accumulate`."""

LATER: dict[str, Any] = {"start_from": None, "cycles": [], "codec": None}
"""What the first runs could not say: at its default it says nothing, so that they can be gone on with."""


def go_on(folder: Path, asked: RunConfig) -> RunConfig:
    """The configuration with which the run in a folder goes on: its own, with what may be told anew, or for longer.

    Raises:
        CheckpointError: it was begun with another one.
    """
    file = folder / "config.json"
    begun = RunConfig.from_file(file) if file.exists() else asked  # the checkpoint, too, knows what it is of
    longer = begun.longer(asked.steps)
    asked = dataclasses.replace(asked, cycles=asked.cycles or longer.cycles)
    theirs = longer.to_dict()
    for name, value in asked.to_dict().items():
        if name not in HARMLESS and theirs[name] != value:
            raise CheckpointError(
                f"{folder} was begun with {name} = {theirs[name]!r}, and now {name} = {value!r} is asked for; "
                "go on with the configuration that it was begun with, or give another folder"
            )
    return asked


def decides(config: RunConfig, step: int) -> dict[str, Any]:
    """What of a configuration decides the weights after so many steps.

    Neither what may be told anew does, nor what is still to come, such as the end of a run whose learning rate stays.
    """
    values = {name: value for name, value in config.to_dict().items() if name not in HARMLESS}
    values["steps"] = config.cycle(step - 1).stop if config.decay == "cosine" else None
    values["cycles"] = [end for end in config.cycles if end < step]
    return {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}


def cut_log(log: Path, step: int) -> str:
    """The lines of a log that a run wrote up to this step, from which it now goes on."""
    kept = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):  # half written, or damaged: it is only a log
            continue
    return "".join(f"{line}\n" for line in kept)


def new_cycle(config: RunConfig, step: int) -> str | None:
    """What becomes of a run that goes on from this step and whose learning rate has yet to begin anew, in words."""
    end = next((end for end in config.cycles if end >= step), None)
    if end is None:
        return None
    return f"begins a new cycle at step {end}, where its learning rate has fallen to zero, from its averaged weights"


def same_everywhere(newest: Path | None, folder: Path) -> None:
    """Raise, on every process, unless all found the same checkpoint: else some wait for ever for the others."""
    from accelerate.utils import gather_object

    found = checkpoint.identity(newest) if newest else "no checkpoint"
    (first, there), *others = gather_object([(found, str(folder))])
    for process, (other, here) in enumerate(others, start=1):
        if other != first:
            raise CheckpointError(
                f"process 0 found {first} in {there}, and process {process} found {other} in {here}; "
                "all need the same folder, on a disk that they share, or each a copy of it"
            )
