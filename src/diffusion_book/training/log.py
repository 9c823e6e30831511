"""The losses of a run, by time, on their way to its log (chapter 11).

They are summed where they are computed: who reads a number from a GPU waits for all that was asked of it, so nothing is
read before a line of the log is written.
"""

import torch
from torch import Tensor

BINS = 10
"""Equal parts of (0, T] for which the loss is logged on its own."""


class LossByTime:
    """Sums and numbers of losses since the last line of the log, in `BINS` equal parts of time.

    Args:
        device: where the losses are.
        T: the last time; None where losses have no times, and all are in the first part.
    """

    def __init__(self, device: torch.device, T: float | None) -> None:
        self.T = T
        self.sum = torch.zeros(BINS, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.count = torch.zeros(BINS, dtype=torch.float64)  # of the times, which are on the CPU

    def add(self, loss: Tensor, t: Tensor | None) -> None:
        """Losses [B], on the device, at times [B], on the CPU."""
        part = torch.zeros(len(loss), dtype=torch.int64)
        if t is not None and self.T is not None:
            part = (t.double() * BINS / self.T).ceil().long().clamp(1, BINS) - 1
        inside = part[:, None] == torch.arange(BINS)
        self.count += inside.sum(0)
        self.sum += torch.where(inside.to(self.sum.device), loss[:, None].to(self.sum.dtype), 0).sum(0)

    def read(self) -> Tensor:
        """[2, BINS] float64 on the CPU: the sums and the numbers. This waits for the device."""
        return torch.stack([self.sum.cpu().double(), self.count])

    def reset(self, sums: Tensor | None = None) -> None:
        """Begin anew, or from what was read."""
        self.sum.zero_()
        self.count.zero_()
        if sums is not None:
            self.sum += sums[0].to(self.sum)
            self.count += sums[1]
