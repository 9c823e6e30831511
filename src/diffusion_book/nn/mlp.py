"""A small network for points in the plane. Chapter 6."""

from torch import Tensor, nn

from diffusion_book._checks import at_least, check_time_of_each
from diffusion_book.nn.embedding import ClassEmbedding, TimeEmbedding
from diffusion_book.nn.inputs import check_dtype


class MLP(nn.Module):
    """Residual layers on a point, each told the time: x [B, D], t [B] → [B, D]. Chapter 6.

    Source: He et al. 2016, equation 1, for layers that add to their input.

    Args:
        dim: D, coordinates of a point.
        width: hidden features.
        depth: residual layers.
        classes: number of classes, or 0; label `classes` then means "no label".

    Raises:
        ValueError: a size is no whole number, or none at all; or, when it is called, an input does not fit.
    """

    def __init__(self, dim: int = 2, width: int = 128, depth: int = 3, classes: int = 0) -> None:
        super().__init__()
        at_least(1, dim=dim, width=width, depth=depth)
        at_least(0, classes=classes)
        self.dim = dim
        self.embed_time = TimeEmbedding(64, width)
        self.embed_class = ClassEmbedding(classes, width) if classes else None
        self.first = nn.Linear(dim, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(depth)
        )
        self.last = nn.Linear(width, dim)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if isinstance(x, Tensor) and (x.ndim != 2 or x.shape[1] != self.dim):
            raise ValueError(f"expected points [B, {self.dim}], got shape {tuple(x.shape)}")
        check_dtype("points", x, self.first)
        check_time_of_each("points", x, t)
        embedding = self.embed_time(t)
        if self.embed_class is None and y is not None:
            raise ValueError("this MLP has no classes (classes=0), so it takes no labels y")
        if self.embed_class is not None:
            embedding = embedding + self.embed_class(y, len(x))
        h = self.first(x)
        for layer in self.layers:
            h = h + layer(h + embedding)
        return self.last(h)
