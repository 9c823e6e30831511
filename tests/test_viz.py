"""Figures: the pixels that are drawn, and colours that are seen on a light and on a dark page."""

import json
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from diffusion_book import viz
from diffusion_book.evaluation import Measure, Origin, Pictures, Report, Scores, Yardstick


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with plt.rc_context():
        viz.use_style()
        yield
        plt.close("all")


def drawn(figure: plt.Figure) -> np.ndarray:
    """The RGBA pixels of the one picture in a figure."""
    (axis,) = figure.axes
    (picture,) = axis.images
    return np.asarray(picture.get_array())


def levels(*values: float, channels: int = 1) -> torch.Tensor:
    """One 2×2 image of each grey value."""
    return torch.tensor(values)[:, None, None, None].expand(len(values), channels, 2, 2)


def test_minus_one_is_black_and_one_is_white():
    canvas = drawn(viz.show_images(levels(-1.0, 0.0, 1.0)))
    assert canvas.shape == (2, 3 * 2 + 2 * 2, 4)  # three images of two pixels, two gaps of two
    assert [canvas[0, x, 0] for x in (0, 4, 8)] == [0.0, 0.5, 1.0]
    assert [canvas[0, x, 3] for x in range(10)] == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1]  # gaps show the page


def test_values_outside_are_clipped_before_matplotlib_complains(caplog):
    canvas = drawn(viz.show_images(levels(-3.0, 7.0)))
    assert (canvas[0, 0, 0], canvas[0, 4, 0]) == (0.0, 1.0)
    assert caplog.records == []


def test_colour_is_kept():
    image = torch.tensor([1.0, -1.0, 0.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert drawn(viz.show_images(image))[1, 1].tolist() == [1.0, 0.0, 0.5, 1.0]


def test_a_grid_is_filled_row_by_row():
    canvas = drawn(viz.show_images(levels(-1.0, -0.5, 0.0, 0.5, 1.0), columns=2))
    assert canvas.shape == (3 * 2 + 2 * 2, 2 * 2 + 2, 4)
    assert [canvas[4 * i, 4 * j, 0] for i in range(3) for j in range(2)] == [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]
    assert canvas[8, 4, 3] == 0  # there is no sixth image


def test_losses_are_those_of_the_log(tmp_path):
    """The training loss at every line, the held-out one where it was measured, with its lowest marked."""
    lines = [{"step": 10 * i, "loss": 1 / i} for i in (1, 2, 3, 4)]
    for line, held_out in zip(lines[1:], (0.7, 0.5, 0.6)):
        line |= {"held_out_loss": held_out, "held_out_standard_error": 0.05}
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (axis,) = viz.show_losses(tmp_path).axes
    training, held_out, lowest = axis.lines
    np.testing.assert_allclose(training.get_xydata(), [[10, 1], [20, 1 / 2], [30, 1 / 3], [40, 1 / 4]])
    np.testing.assert_allclose(held_out.get_xydata(), [[20, 0.7], [30, 0.5], [40, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(lowest.get_xydata(), [[30, 0.5]], rtol=1e-6)
    (band,) = axis.collections
    assert {round(float(y), 6) for y in band.get_paths()[0].vertices[:, 1]} >= {0.6, 0.8, 0.4, 0.5, 0.7}
    (tmp_path / "log.jsonl").write_text(json.dumps(lines[0]) + "\n")
    (axis,) = viz.show_losses(tmp_path).axes
    assert len(axis.lines) == 1
    with pytest.raises(ValueError, match=r"log.jsonl has no losses yet"):
        viz.show_losses(tmp_path / "nowhere")


def test_rows_of_images_stay_rows():
    images = levels(-1.0, -0.5, 0.0, 0.5, 1.0, 1.0).reshape(2, 3, 1, 2, 2)
    figure = viz.show_images(images, row_labels=["linear", "cosine"], column_labels=["a", "b", "c"])
    canvas = drawn(figure)
    assert [canvas[4 * i, 4 * j, 0] for i in range(2) for j in range(3)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["linear", "cosine"]
    assert axis.get_yticks().tolist() == [1, 5]  # the middle of each row
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b", "c"]
    assert axis.get_xticks().tolist() == [1, 5, 9]


def test_without_labels_there_are_no_ticks():
    (axis,) = viz.show_images(levels(0.0, 1.0)).axes
    assert axis.get_xticks().size == axis.get_yticks().size == 0


def test_by_default_ten_in_a_row():
    assert drawn(viz.show_images(levels(*[0.0] * 23))).shape == (3 * 4 - 2, 10 * 4 - 2, 4)


def test_scale_is_of_the_pages_width():
    assert viz.show_images(levels(0.0), scale=0.5).get_size_inches()[0] == viz.WIDTH / 2


def test_a_tensor_with_a_graph_or_in_half_precision_is_drawn():
    viz.show_images(levels(0.0).clone().requires_grad_())
    viz.show_images(levels(0.0).half())


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 2, 8, 8), (2, 8, 8, 3), (1, 2, 3, 4, 8, 8)])
def test_what_are_no_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"\[N, C, H, W\] or \[R, N, C, H, W\], C = 1 or 3, got \("):
        viz.show_images(torch.zeros(shape))


def test_points_are_drawn_where_they_are(generator):
    points = torch.randn(50, 2, generator=generator).requires_grad_()
    figure, axis = plt.subplots()
    viz.scatter(axis, points, viz.COLORS["red"], limit=2.5, alpha=0.3)
    (cloud,) = axis.collections
    np.testing.assert_allclose(cloud.get_offsets(), points.detach().numpy(), rtol=1e-6)
    assert cloud.get_rasterized()
    assert cloud.get_alpha() == 0.3
    assert axis.get_xlim() == axis.get_ylim() == (-2.5, 2.5)
    figure.canvas.draw()


def test_the_page_shows_through():
    figure = viz.show_images(levels(0.0))
    figure.canvas.draw()
    assert figure.get_facecolor()[3] == 0
    assert figure.axes[0].get_facecolor()[3] == 0


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#14181e", "#121212"])
@pytest.mark.parametrize("name", viz.COLORS)
def test_lines_are_seen_on_a_light_and_on_a_dark_page(name, page):
    """WCAG 2.2, 1.4.11 asks 3:1 of graphical objects."""
    assert contrast(viz.COLORS[name], page) >= 3


def test_text_is_read_on_a_light_page_and_seen_on_a_dark_one():
    """4.5:1 for text on white; on dark, where the site puts its own colour in, a bare figure must have 3:1."""
    assert contrast(viz.INK, "#ffffff") >= 4.5
    assert contrast(viz.INK, "#121212") >= 3


def test_the_style_takes_the_colours_in_their_order():
    assert [c["color"] for c in plt.rcParams["axes.prop_cycle"]] == list(viz.COLORS.values())


def test_two_drawings_give_one_file(tmp_path):
    files = []
    for name in ("one.svg", "two.svg"):
        figure = viz.show_images(levels(-1.0, 1.0))
        figure.savefig(tmp_path / name, metadata={"Date": None})
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def report(n: int, channels: int) -> Report:
    """With what the picture shows: levels of grey, three bars beside the samples'."""
    rows = [torch.full((n, channels, 4, 5), level) for level in (-1.0, 0.0, 1.0)]
    distance = Measure("FCD-X", 3.0, Scores.of([0.9, 1.0, 1.1]), 400, 500, 500, lower_is_better=True)
    yardsticks = (Yardstick(0.0, 1.5, 400), Yardstick(0.1, 2.5, 400))
    origin = Origin("m", "ddim", 10, 1.0, 0)
    pictures = Pictures(*rows)
    return Report("FCD-X", 400, origin, (distance,), yardsticks, {}, {}, None, {}, {}, {}, (0, 1, 2), {}, pictures)


@pytest.mark.parametrize(("n", "channels"), [(1, 1), (10, 3)])
def test_a_report_is_drawn(n, channels, tmp_path):
    figure = viz.show_report(report(n, channels))
    figure.savefig(tmp_path / "report.png")
    above, below = figure.axes
    canvas = np.asarray(above.images[0].get_array())
    assert canvas.shape == (3 * 4 + 2 * 2, n * 5 + (n - 1) * 2, 4)
    assert [canvas[row, 0, :3].tolist() for row in (0, 6, 12)] == [[0] * 3, [0.5] * 3, [1] * 3]
    assert [label.get_text() for label in above.get_yticklabels()] == ["samples", "nearest\nby pixels", "by features"]
    assert [patch.get_width() for patch in below.patches] == pytest.approx([3.0, 1.0, 1.5, 2.5])
    named = [label.get_text() for label in below.get_yticklabels()]
    assert named == ["samples", "real against real", "held out", "held out, noise 0.1"]
    (lines,) = (c for c in below.collections if len(c.get_segments()) == 4)
    widths = [float(segment[1][0] - segment[0][0]) for segment in lines.get_segments()]
    assert widths == pytest.approx([0, 0.2, 0, 0])  # a standard deviation of 0.1 to each side
    assert below.get_xlabel() == "FCD-X, N = 400"


def test_bytes_and_what_is_no_number_are_refused(generator):
    """Bytes would be white, NaN drawn as nothing."""
    images = torch.randint(256, (6, 3, 4, 4), generator=generator, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"images must be floating point, got torch\.uint8.*scale images to \[−1, 1\]"):
        viz.show_images(images)
    for given in (images.numpy(), [images]):
        with pytest.raises(ValueError, match=r"images must be a tensor .*, got (ndarray|list)"):
            viz.show_images(given)
    x = images / 127.5 - 1
    x[4, 0, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="images must be numbers, and there are NaN, first in number 4"):
        viz.show_images(x)


def test_points_are_pairs_of_numbers():
    _, axis = plt.subplots()
    for points, got in ((torch.zeros(5, 3), r"\(5, 3\)"), (torch.zeros(2), r"\(2,\)"), ([[0.0, 1.0]], "list")):
        with pytest.raises(ValueError, match=rf"points must be a tensor \[N, 2\], got {got}"):
            viz.scatter(axis, points)
    with pytest.raises(ValueError, match="points must be numbers, and there are NaN, first in number 1"):
        viz.scatter(axis, torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]))
