"""What a run will take, in time and memory, told once from its own first steps (chapter 11).

Nothing is computed for it: the steps that are timed are those of the run, and a run that ends before is not told.
"""

import time
from collections.abc import Callable

import torch

from diffusion_book.training.memory import taken

STEPS = 4
SECONDS = 1.0
"""So many steps are timed, for at least so long. The first step is not: it also asks for memory and chooses kernels."""


class Estimate:
    """Told of every step, it answers once.

    Args:
        device: that computes. steps: the number of the last step.
        clock: seconds, of which only differences mean something.
    """

    def __init__(self, device: torch.device, steps: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.steps, self.clock = device, steps, clock
        self.start: tuple[int, float] | None = None
        self.told = False

    def after(self, step: int) -> str | None:
        """The line that is worth telling after this step, or None."""
        if self.start is None:
            self.start = step, self._now()
        elif not self.told and step - self.start[0] >= STEPS and self.clock() - self.start[1] >= SECONDS:
            self.told = True
            each = (self._now() - self.start[1]) / (step - self.start[0])
            left = self.steps - step
            return f"about {spoken(left * each)} for {left} more steps, {each:.2g} s each; {taken(self.device)}"
        return None

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)  # a GPU works behind: its clock is when it has done
        return self.clock()


def spoken(seconds: float) -> str:
    """In the unit that a person would take."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.0f} seconds"
