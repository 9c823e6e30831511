"""Figures in one style, legible on a light page and on a dark one."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

INK = "#767676"
"""Text and axes: enough contrast on white and on near-black. The site replaces it by the page's own text colour."""

GRID = "#b0b0b1"
"""Grid lines, faint on both."""

COLORS = {
    "blue": "#3b82c4",
    "orange": "#d9772b",
    "green": "#2f9e6e",
    "purple": "#9a6fd0",
    "red": "#d6495b",
    "grey": "#8a8f98",
}
"""The order in which lines take their colours. Told apart in light, in dark and by most colour-blind readers."""

WIDTH = 7.0
"""Inches: the width of a page's text."""


def use_style() -> None:
    """Set matplotlib to the book's style; in a notebook, draw figures as SVG."""
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.0),
            "figure.facecolor": "none",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "none",
            "savefig.dpi": 160,
            "svg.hashsalt": "diffusion-book",  # the same picture gives the same file
            "axes.facecolor": "none",
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.titlesize": 11,
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": plt.cycler(color=list(COLORS.values())),
            "grid.color": GRID,
            "grid.linewidth": 0.5,
            "grid.alpha": 0.5,
            "lines.linewidth": 2,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "image.cmap": "gray",
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg", bbox_inches=None)


def show_images(
    images: Tensor,
    columns: int | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: float = 1.0,
) -> Figure:
    """Draw images in a grid, filled row by row.

    Args:
        images: [N, C, H, W] in [−1, 1], or [R, N, C, H, W] for R rows.
        columns: images in a row, for the first form; by default all up to ten.
        row_labels, column_labels: written beside the rows and above the columns.
        scale: of the whole figure; 1 fills the page's width.

    Returns:
        The figure, with one image axis for the whole grid.
    """
    if images.ndim == 5:
        columns = images.shape[1]
        images = images.flatten(0, 1)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be [N, C, H, W] or [R, N, C, H, W], C = 1 or 3, got {tuple(images.shape)}")
    N, _, H, W = images.shape
    columns = columns or min(N, 10)
    rows = -(-N // columns)
    gap = 2
    # Transparent until an image is put there, so the gaps show the page behind.
    canvas = torch.full((rows * (H + gap) - gap, columns * (W + gap) - gap, 4), 0.0)
    for i, image in enumerate(images.detach().float().cpu()):
        top, left = (i // columns) * (H + gap), (i % columns) * (W + gap)
        pixels = ((image.clamp(-1, 1) + 1) / 2).expand(3, H, W).permute(1, 2, 0)
        canvas[top : top + H, left : left + W, :3] = pixels
        canvas[top : top + H, left : left + W, 3] = 1.0
    width = WIDTH * scale
    beside = 0.085 * max(map(len, row_labels)) + 0.1 if row_labels else 0.0  # inches, of letters of ten points
    height = (width - beside) * canvas.shape[0] / canvas.shape[1] + 0.3 * bool(column_labels)
    figure, axis = plt.subplots(figsize=(width, height))
    axis.imshow(canvas.numpy(), interpolation="none")
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.tick_params(length=0)
    axis.xaxis.tick_top()
    axis.set_xticks([i * (W + gap) + W / 2 for i in range(columns)] if column_labels else [], column_labels or [])
    axis.set_yticks([i * (H + gap) + H / 2 for i in range(rows)] if row_labels else [], row_labels or [])
    return figure


def scatter(axis: Axes, points: Tensor, color: str = COLORS["blue"], limit: float = 3.0, **options: Any) -> None:
    """Draw points [N, 2] on a square axis from −limit to limit; dense clouds are drawn as pixels, not as paths."""
    x = points.detach().float().cpu()
    axis.scatter(
        x[:, 0],
        x[:, 1],
        **{"s": 3, "color": color, "linewidths": 0, "alpha": 0.6, "rasterized": True, **options},
    )
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
