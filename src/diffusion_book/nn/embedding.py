"""How a network is told the time and the class. Chapter 5."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book._checks import positive
from diffusion_book.nn.inputs import dtype_of


def timestep_embedding(
    t: Tensor,
    dim: int,
    max_period: float = 10_000.0,
    frequency_shift: int = 0,
    sines_first: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Sines and cosines of t at `dim`/2 frequencies from 1 down to 1/max_period (Vaswani et al. 2017, section 3.5).

    Chapter 5 asks why not t itself.

    Args:
        t: [B] times, integer or real, of the order of 0 … 1000.
        dim: even number of features.
        frequency_shift: 0 stops one step short of the frequency 1/max_period; 1 reaches it, as Ho et al. 2020 do.
        sines_first: the other order of the two halves.
        dtype: of the angles; float32 or better, since bfloat16 knows no number between 996 and 1000.

    Returns:
        [B, dim] of that dtype: cosines first, then sines.

    Raises:
        ValueError: t is not [B]; dim is odd, or too small for the shift; or max_period is no period.
    """
    if t.ndim != 1:
        raise ValueError(f"t must hold one time an example, [B], got shape {tuple(t.shape)}")
    positive("max_period", max_period, "10,000 is usual")
    if dim % 2:
        raise ValueError(f"dim must be even, half for cosines and half for sines, got {dim}")
    half = dim // 2
    if frequency_shift < 0:
        raise ValueError(f"frequency_shift must not be negative, got {frequency_shift}; 0 and 1 are usual")
    if half <= frequency_shift:
        raise ValueError(f"{frequency_shift = } needs more than {frequency_shift} frequencies, got {half}")
    k = torch.arange(half, dtype=dtype, device=t.device)
    frequency = torch.exp(-math.log(max_period) * k / (half - frequency_shift))
    angle = t.to(dtype)[:, None] * frequency
    waves = [angle.sin(), angle.cos()] if sines_first else [angle.cos(), angle.sin()]
    return torch.cat(waves, dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoids of t, then two layers: [B] → [B, out] (Ho et al. 2020, appendix B). Chapter 5.

    Args:
        dim: number of sinusoids.
        out: number of features.
        origin: the time that the sinusoids call 0; 1 for weights whose author counted the noisy times from 0.
        frequency_shift, sines_first: see `timestep_embedding`.
    """

    def __init__(
        self, dim: int, out: int, origin: int = 0, frequency_shift: int = 0, sines_first: bool = False
    ) -> None:
        super().__init__()
        self.dim, self.origin, self.frequency_shift, self.sines_first = dim, origin, frequency_shift, sines_first
        self.layers = nn.Sequential(nn.Linear(dim, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, t: Tensor) -> Tensor:
        of_weights = dtype_of(self.layers, torch.float32)
        waves = timestep_embedding(
            t - self.origin,
            self.dim,
            frequency_shift=self.frequency_shift,
            sines_first=self.sines_first,
            dtype=torch.promote_types(of_weights, torch.float32),
        )
        return self.layers(waves.to(of_weights))


class ClassEmbedding(nn.Module):
    """One learned vector a class: labels [B] → [B, out] (Dhariwal and Nichol 2021, section 3). Chapter 8.

    Args:
        classes: how many there are; they are numbered from 0.
        out: number of features.
        no_label: whether there is one more vector, for the label `classes`, which means "no label".
    """

    def __init__(self, classes: int, out: int, no_label: bool = True) -> None:
        super().__init__()
        self.classes, self.no_label = classes, no_label
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(classes + no_label, out)))

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        """Vectors of the labels y [B]; None means no label for all of the batch.

        Raises:
            ValueError: y is no tensor, is not integer, has another shape, or names a class that there is not. The last
                is seen on a CPU only: reading a label from a GPU would hold up every step, and torch stops there by
                itself.
        """
        if y is None:
            if not self.no_label:
                raise ValueError(f"this network has no vector for a missing label; give y, labels in {self._range()}")
            return self.weight[self.classes].expand(batch, -1)
        if not isinstance(y, Tensor):
            raise ValueError(f"labels must be a tensor of integers in {self._range()}, got {y!r:.80}")
        if y.shape != (batch,):
            raise ValueError(f"y must hold one label for each of the {batch} examples, got shape {tuple(y.shape)}")
        if y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"labels must be integers in {self._range()}, got dtype {y.dtype}; use y.long()")
        if y.device.type == "cpu" and not torch.compiler.is_compiling() and y.numel():
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= len(self.weight):
                raise ValueError(f"labels must lie in {self._range()}, got {low} … {high}")
        return F.embedding(y.long(), self.weight)

    def _range(self) -> str:
        meaning = f' ({self.classes} means "no label")' if self.no_label else ""
        return f"0 … {len(self.weight) - 1}{meaning}"
