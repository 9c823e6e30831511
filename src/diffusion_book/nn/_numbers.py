"""What the numbers of a network must be."""

from numbers import Integral

from torch import Tensor


def at_least(least: int, **values: int) -> None:
    """A ValueError that names the first of these values which is not a whole number of at least `least`."""
    for name, value in values.items():
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_floating(what: str, x: Tensor) -> None:
    """A ValueError for integers, which a network has no weights for."""
    if not x.is_floating_point():
        raise ValueError(
            f"{what} must be floating point, got {x.dtype}; use .float(), and scale images to [−1, 1] first"
        )
