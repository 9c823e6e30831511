"""The memory that a run takes, and what to do where there is too little (chapter 11)."""

import sys
from typing import Any

import torch

from diffusion_book.nn.build import configure
from diffusion_book.training.config import RunConfig
from diffusion_book.training.precision import Precision


def taken(device: torch.device) -> str:
    """The most that has been taken so far: of the GPU, or by this process."""
    if device.type == "cuda":
        most, there = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        return f"{most / 1e9:.2g} of {there / 1e9:.2g} GB of the GPU's memory"
    try:
        import resource
    except ImportError:  # Windows
        return "how much memory, this system does not say"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2g} GB of memory"


def ladder(config: RunConfig, processes: int, precision: Precision) -> str:
    """What to change, from what costs least to what costs most, for a step that does not fit into memory.

    The first costs a little time and nothing of the result; the last two make other pictures, or a weaker network.
    """
    rungs = [_smaller_pieces(config, processes)]
    if precision == "fp32":
        rungs.append("precision=bf16 (half the length of a number)")
    rungs.append(_half_the(config, "checkpoint", True, "activations are computed twice, a third slower"))
    if config.data.startswith("folder:") and config.size and config.size >= 16:
        rungs.append(f"size={config.size // 2} (a quarter of the pixels)")
    for name in ("channels", "width"):
        rungs.append(_half_the(config, name, None, "a smaller network"))
    steps = ", ".join(rung for rung in rungs if rung)
    return f"try in this order, each with --set on the command line: {steps}"


def _smaller_pieces(config: RunConfig, processes: int) -> str | None:
    share = config.batch_size // processes
    for parts in range(2 * config.accumulate, share + 1):
        if share % parts == 0:
            return f"accumulate={parts} (the same batch, {share // parts} pictures at a time)"
    return None


def _half_the(config: RunConfig, name: str, value: Any, why: str) -> str | None:
    """A network's field at this value, or at half of what it is, if there is such a network and it is another."""
    now = getattr(configure(config.network)[1], name, value)
    value = now // 2 if value is None and now else value
    try:
        configure({**config.network, name: value})
    except ValueError:
        return None
    return None if value == now else f"network.{name}={str(value).lower()} ({why})"
