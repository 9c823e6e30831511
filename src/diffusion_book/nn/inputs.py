"""What every network asks of what it is called with, before it computes (chapter 5)."""

import torch
from torch import Tensor, nn

from diffusion_book._checks import check_floating


def check_images(x: Tensor, channels: int, entered: nn.Module) -> None:
    """A ValueError unless x is a batch of images [B, channels, H, W] that fits the layer it enters."""
    if isinstance(x, Tensor) and (x.ndim != 4 or x.shape[1] != channels):
        raise ValueError(f"expected images [B, {channels}, H, W], got shape {tuple(x.shape)}")
    check_dtype("images", x, entered)


def check_sides(x: Tensor, side: int, of: str, otherwise: str) -> None:
    """A ValueError unless height and width are multiples of a side, `of` in words."""
    H, W = x.shape[2:]
    if H % side or W % side:
        raise ValueError(f"image sides must be multiples of {of}, got {H}×{W}; pad the images or {otherwise}")


def check_dtype(what: str, x: Tensor, entered: nn.Module) -> None:
    """A ValueError unless x is a tensor of floating point numbers, in the dtype of the weights of the layer it enters.

    Within `torch.autocast` the dtypes may differ, except that it leaves float64 alone.
    """
    check_floating(what, x)
    dtype = dtype_of(entered, x.dtype)
    cast = torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
    if x.dtype != dtype and not (cast and torch.float64 not in (x.dtype, dtype)):
        raise ValueError(
            f"{what} must be {dtype}, as the weights of this network are, got {x.dtype}; "
            f"use .to({dtype}), or network.to({x.dtype})"
        )


def dtype_of(layer: nn.Module, default: torch.dtype) -> torch.dtype:
    """Of its weights; the default where it has none of floating point, as after it was quantised."""
    return next((weight.dtype for weight in layer.parameters() if weight.is_floating_point()), default)
