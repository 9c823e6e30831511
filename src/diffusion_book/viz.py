"""Figures in one style, legible on a light page and on a dark one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor

from diffusion_book._checks import check_floating
from diffusion_book.evaluation import Report

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

_GAP = 2  # pixels between images of a grid


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
        images: [N, C, H, W] in [−1, 1], or [R, N, C, H, W] for R rows; values outside are clipped.
        columns: images in a row, for the first form; by default all up to ten.
        row_labels, column_labels: written beside the rows and above the columns.
        scale: of the whole figure; 1 fills the page's width.

    Returns:
        The figure, with one image axis for the whole grid.

    Raises:
        ValueError: another shape, bytes, or NaN, which would be drawn as nothing.
    """
    check_floating("images", images)
    if images.ndim == 5:
        columns = images.shape[1]
        images = images.flatten(0, 1)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be [N, C, H, W] or [R, N, C, H, W], C = 1 or 3, got {tuple(images.shape)}")
    _check_numbers("images", images)
    N, _, H, W = images.shape
    columns = columns or min(N, 10)
    rows = -(-N // columns)
    canvas = _canvas(images, columns)
    width = WIDTH * scale
    beside = 0.085 * max(map(len, row_labels)) + 0.1 if row_labels else 0.0  # inches, of letters of ten points
    height = (width - beside) * canvas.shape[0] / canvas.shape[1] + 0.3 * bool(column_labels)
    figure, axis = plt.subplots(figsize=(width, height))
    _draw_canvas(axis, canvas)
    axis.xaxis.tick_top()
    axis.set_xticks([i * (W + _GAP) + W / 2 for i in range(columns)] if column_labels else [], column_labels or [])
    axis.set_yticks([i * (H + _GAP) + H / 2 for i in range(rows)] if row_labels else [], row_labels or [])
    return figure


def show_report(report: Report) -> Figure:
    """Draw a report: samples above their nearest training images, and the distance among its yardsticks (chapter 12).

    Returns:
        The figure, with the images' axis first; beside the bar of the samples are those of real images with their
        standard deviation over seeds, and of held-out images with noise.
    """
    found, distance = report.pictures, report.measures[0]
    rows = {"samples": found.samples, "nearest\nby pixels": found.by_pixels, "by features": found.by_features}
    images = torch.cat(list(rows.values()))
    columns, H = len(found.samples), images.shape[-2]
    canvas = _canvas(images, columns)
    height = WIDTH * canvas.shape[0] / canvas.shape[1]
    bars = {"samples": (distance.value, COLORS["blue"]), "real against real": (distance.real.mean, COLORS["green"])}
    for y in report.yardsticks:
        bars[f"held out, noise {y.noise:g}" if y.noise else "held out"] = (y.value, COLORS["grey"])
    figure, (above, below) = plt.subplots(
        2, figsize=(WIDTH, height + 0.3 * len(bars) + 0.8), height_ratios=[height, 0.3 * len(bars) + 0.6]
    )
    _draw_canvas(above, canvas)
    above.set_xticks([])
    above.set_yticks([i * (H + _GAP) + H / 2 for i in range(len(rows))], list(rows))
    names, values, colors = list(bars), [v for v, _ in bars.values()], [c for _, c in bars.values()]
    errors = [distance.real.sd if name == "real against real" else 0.0 for name in names]
    below.barh(names, values, xerr=errors, color=colors, ecolor=INK, height=0.7)
    below.invert_yaxis()
    below.grid(axis="y", visible=False)
    below.set_xlabel(f"{report.name}, N = {report.n:,}")
    return figure


def show_losses(folder: Path | str) -> Figure:
    """Draw the losses of a run: in training and, where they were measured, on held-out pictures (chapter 11).

    They are not of one network: the training loss is of the weights as they were, the other of their average.

    Returns:
        The figure; a band of two standard errors lies around the held-out loss, and a dot marks its lowest.

    Raises:
        ValueError: the folder has no log with a loss in it.
    """
    log = Path(folder) / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    if not lines:
        raise ValueError(f"{log} has no losses yet; a run writes it from its first `log_every` steps on")
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0), layout="constrained")
    axis.plot(
        [line["step"] for line in lines], [line["loss"] for line in lines], color=COLORS["grey"], label="training"
    )
    measured = [line for line in lines if "held_out_loss" in line]
    if measured:
        step = torch.tensor([line["step"] for line in measured])
        loss, error = torch.tensor(
            [[line[f"held_out_{key}"] for line in measured] for key in ("loss", "standard_error")]
        )
        axis.plot(step, loss, color=COLORS["orange"], label="held out")
        axis.fill_between(step, loss - 2 * error, loss + 2 * error, color=COLORS["orange"], alpha=0.2, linewidth=0)
        axis.plot(step[loss.argmin()], loss.min(), "o", color=COLORS["orange"], label="its lowest")
    axis.set(xlabel="step", ylabel="loss", yscale="log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.legend()
    return figure


def _canvas(images: Tensor, columns: int) -> Tensor:
    """Images [N, C, H, W] in a grid, [height, width, 4]; transparent between them, so the page behind shows."""
    N, _, H, W = images.shape
    rows = -(-N // columns)
    canvas = torch.full((rows * (H + _GAP) - _GAP, columns * (W + _GAP) - _GAP, 4), 0.0)
    for i, image in enumerate(images.detach().float().cpu()):
        top, left = (i // columns) * (H + _GAP), (i % columns) * (W + _GAP)
        pixels = ((image.clamp(-1, 1) + 1) / 2).expand(3, H, W).permute(1, 2, 0)
        canvas[top : top + H, left : left + W, :3] = pixels
        canvas[top : top + H, left : left + W, 3] = 1.0
    return canvas


def _check_numbers(what: str, x: Tensor) -> None:
    if bool(x.isnan().any()):
        at = x.flatten(1).isnan().any(1).nonzero()[0].item()
        raise ValueError(f"{what} must be numbers, and there are NaN, first in number {at}; look at what made them")


def _draw_canvas(axis: Axes, canvas: Tensor) -> None:
    axis.imshow(canvas.numpy(), interpolation="none")
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.tick_params(length=0)


def scatter(axis: Axes, points: Tensor, color: str = COLORS["blue"], limit: float = 3.0, **options: Any) -> None:
    """Draw points [N, 2] on a square axis from −limit to limit; dense clouds are drawn as pixels, not as paths.

    Raises:
        ValueError: another shape, or NaN, which would be drawn as nothing.
    """
    if not isinstance(points, Tensor) or points.ndim != 2 or points.shape[1] != 2:
        got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"points must be a tensor [N, 2], got {got}")
    _check_numbers("points", points)
    x = points.detach().float().cpu()
    axis.scatter(
        x[:, 0],
        x[:, 1],
        **{"s": 3, "color": color, "linewidths": 0, "alpha": 0.6, "rasterized": True, **options},
    )
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
