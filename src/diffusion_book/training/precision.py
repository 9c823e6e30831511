"""In which numbers a network computes, and what float16 needs besides (chapter 11)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network computes at that precision on that device; see `resolve` for errors."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = dtypes.get(resolve(precision, device))
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def resolve(precision: Precision, device: torch.device) -> Precision:
    """What "auto" means on a device: "bf16" where that is fast, else "fp16" where that is, else "fp32".

    bfloat16 comes first since it has float32's range, and nothing in it overflows. float16 is fast on GPUs with tensor
    cores, which are those of compute capability 7.0 and above.

    Raises:
        ValueError: "fp16" without CUDA.
    """
    if precision == "auto":
        if fast_bf16(device):
            return "bf16"
        return "fp16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(
            f"precision = 'fp16' is for CUDA GPUs, got the device {device}; elsewhere use 'auto', 'bf16' or 'fp32'"
        )
    return precision


def step_scaled(optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> bool:
    """Step with unscaled gradients and adapt the scale → whether there was a step.

    There is none where a scaled gradient overflowed; the next is tried at half the scale (Micikevicius et al. 2018).
    A scaler that is off always steps.
    """
    before = scaler.get_scale()
    scaler.step(optimiser)
    scaler.update()
    return scaler.get_scale() >= before


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; emulated, it is several times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
