"""A schedule by the name that a configuration gives it. Chapter 11."""

from collections.abc import Callable

from diffusion_book._names import check_known
from diffusion_book.schedules.base import Continuous, Schedule
from diffusion_book.schedules.continuous import EDM, VE, VP, Cosine, Flow, SubVP
from diffusion_book.schedules.discrete import Discrete, cosine, linear, scaled_linear, sigmoid

SCHEDULES: dict[str, Callable[[int], Discrete]] = {
    "linear": linear,
    "scaled-linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
}
CONTINUOUS: dict[str, Callable[[], Continuous]] = {
    "flow": Flow,
    "edm": EDM,
    "vp": VP,
    "continuous-cosine": Cosine,
    "ve": VE,
    "sub-vp": SubVP,
}


def by_name(name: str, T: int | None = None) -> Schedule:
    """The schedule of that name: with T steps (1000 where it is not said), or continuous.

    Raises:
        ValueError: an unknown name, with the list of names; or a T for a schedule that has no steps.
    """
    if name in SCHEDULES:
        return SCHEDULES[name](1000 if T is None else T)
    check_known("schedule", name, [*SCHEDULES, *CONTINUOUS])
    if T is not None:
        raise ValueError(f"{name!r} is continuous and takes no T, got {T}; leave T out")
    return CONTINUOUS[name]()
