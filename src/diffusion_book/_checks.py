"""What the numbers and tensors must be that a reader hands over."""

import math
from collections.abc import Sequence
from numbers import Integral

from torch import Tensor


def at_least(least: int, **values: int) -> None:
    """A ValueError that names the first of these values which is not a whole number of at least `least`."""
    for name, value in values.items():
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_floating(what: str, x: Tensor) -> None:
    """A ValueError for what is no tensor, or one of integers.

    A network has no weights for integers, and coefficients between 0 and 1 would round to 0 in their dtype.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"{what} must be a tensor [B, …], got {type(x).__name__}")
    if not x.is_floating_point():
        raise ValueError(
            f"{what} must be floating point, got {x.dtype}; use .float(), and scale images to [−1, 1] first"
        )


def check_batch(x: Tensor) -> None:
    """A ValueError unless x is floating point and [B, …] with dimensions behind the first, to sum or average over."""
    check_floating("a batch", x)
    if x.ndim < 2:
        raise ValueError(f"a batch must be [B, …], got shape {tuple(x.shape)}; B single numbers are [B, 1]")


def check_time_of_each(what: str, x: Tensor, t: Tensor) -> None:
    """A ValueError unless t is [B], a tensor: one time for each example of x [B, …]."""
    if not isinstance(t, Tensor):
        raise ValueError(f"t must hold one time for each of the {len(x)} {what}, got {t!r}; pass a tensor [{len(x)}]")
    if t.shape != (len(x),):
        raise ValueError(f"t must hold one time for each of the {len(x)} {what}, got shape {tuple(t.shape)}")


def not_a_tensor(who: str, output: object) -> ValueError:
    """What to say of an output that is none: other libraries' networks return a record with the tensor inside."""
    advice = "; return it as torch.Tensor"
    if hasattr(output, "sample"):
        advice = "; pass lambda x, t: net(x, t).sample"
    elif isinstance(output, tuple):
        advice = "; pass lambda x, t: net(x, t)[0]"
    return ValueError(f"{who} must return a tensor, got {type(output).__name__}{advice}")


def check_same_shape(name: str, x: Tensor, of: str, like: Tensor) -> None:
    """One number for each example, or one channel for three, would spread over all of them in silence."""
    check_floating("a batch", x)
    if x.shape != like.shape:
        raise ValueError(f"{name} must have the shape of {of}, {tuple(like.shape)}, got {tuple(x.shape)}")


def positive(name: str, value: float, usual: str = "") -> None:
    """A ValueError, with a word on what is usual, unless the value is above 0 and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}" + (f"; {usual}" if usual else ""))


def share(name: str, value: float, ends: str) -> None:
    """A ValueError unless the value lies in [0, 1], with what its two ends mean."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1] ({ends}), got {value}")


def one_of(name: str, value: object, choices: Sequence[str] | Sequence[int]) -> None:
    """A ValueError unless the value is one of these words or whole numbers."""
    if not (isinstance(value, str | Integral) and value in choices):
        *others, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")
