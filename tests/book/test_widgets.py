"""The interactive figures, moved by the keyboard in a real browser, must show the library's own numbers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import widgets
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import directives
from playwright.sync_api import Browser, Page

from _support import browser as web
from diffusion_book import data, schedules
from diffusion_book.data.images import to_uint8

CHAPTER = "02-forward-process"
SLIDE_SHOW, FLOW = '[data-widget="forward-slider"]', '[data-widget="forward-flow"]'
SLIDER, FLOW_SLIDER = f"{SLIDE_SHOW} input[type=range]", f"{FLOW} input[type=range]"


@pytest.fixture(scope="module")
def slider(browser: Browser, site: Path) -> Iterator[Page]:
    """The page of the slider, opened from the disk."""
    problems: list[str] = []
    context = browser.new_context(viewport=web.PHONE)
    page = web.watched_page(context, "file://", problems)
    web.open_page(page, (site / f"{CHAPTER}.html").as_uri())
    yield page
    context.close()
    assert not problems, problems


def shown(page: Page) -> dict[str, tuple[float, float]]:
    """ᾱ and log-SNR of each schedule, as the reader sees them."""
    found = {}
    for panel in page.query_selector_all(".widget-panel"):
        numbers = [span.inner_text().replace("−", "-").replace("∞", "inf") for span in panel.query_selector_all("span")]
        found[panel.query_selector("strong").inner_text()] = (float(numbers[0]), float(numbers[1]))
    return found


@pytest.mark.parametrize(("keys", "t"), [(["Home"], 0), (["Home", "ArrowRight"], 10), (["End"], 1000)])
def test_the_slider_shows_the_numbers_of_the_library(slider: Page, keys: list[str], t: int) -> None:
    slider.focus(SLIDER)
    for key in keys:
        slider.keyboard.press(key)
    assert slider.inner_text(f"{SLIDE_SHOW} label") == f"t = {t}"
    numbers = shown(slider)
    assert list(numbers) == list(schedules.SCHEDULES)
    for name, (alpha_bar, log_snr) in numbers.items():
        schedule = schedules.by_name(name)
        assert alpha_bar == pytest.approx(schedule.alpha_bar[t].item(), rel=0.006)  # three digits are shown
        assert log_snr == pytest.approx(schedule.at(t).log_snr.item(), abs=0.0051)


def test_the_picture_at_zero_is_the_digit_of_the_page(slider: Page, site: Path) -> None:
    soup = BeautifulSoup((site / f"{CHAPTER}.html").read_text("utf8"), "html.parser")
    pixels = json.loads(soup.select_one("#forward-slider-data").string)["pixels"]
    digits = to_uint8(data.load("mnist-5k").x).flatten(1)
    assert bool((digits == torch.tensor(pixels, dtype=torch.uint8)).all(1).any()), "it is no digit of the data set"
    slider.focus(SLIDER)
    slider.keyboard.press("Home")
    drawn = slider.evaluate(
        """() => [...document.querySelector("[data-widget=forward-slider] canvas").getContext("2d")
            .getImageData(0, 0, 28, 28).data].filter((value, index) => index % 4 === 0)"""
    )
    assert drawn == pixels


def test_new_noise_is_new(slider: Page) -> None:
    slider.focus(SLIDER)
    slider.keyboard.press("End")
    picture = "document.querySelector('[data-widget=forward-slider] canvas').toDataURL()"
    before = slider.evaluate(picture)
    slider.click(f"{SLIDE_SHOW} button")
    assert slider.evaluate(picture) != before


def flow_shown(page: Page) -> tuple[list[float], list[float], list[str]]:
    """The heights of the curve and of the dashed bell, in units of the plot, and the places of the dots."""
    curve, end = (page.get_attribute(f"{FLOW} .widget-{name}", "d") for name in ("curve", "end"))
    heights = [[200 - float(point.split(",")[1]) for point in path.strip("M Z").split(" L ")] for path in (curve, end)]
    dots = [dot.get_attribute("cx") for dot in page.query_selector_all(f"{FLOW} .widget-dot")]
    return heights[0][1:-1], heights[1], dots


@pytest.mark.parametrize(("keys", "t"), [(["Home"], 0), (["Home", "ArrowRight"], 20), (["End"], 1000)])
def test_the_film_shows_the_density_of_the_library(slider: Page, keys: list[str], t: int) -> None:
    slider.focus(FLOW_SLIDER)
    for key in keys:
        slider.keyboard.press(key)
    assert slider.inner_text(f"{FLOW} label") == f"t = {t}"
    mean, std = torch.tensor([[-1.0], [1.0]]).double(), torch.full((2, 1, 1), 0.25).double()
    blobs = data.GaussianMixture(torch.tensor([0.5, 0.5]).double(), mean, std**2)
    level = schedules.linear().at(t)
    x = torch.linspace(-3, 3, 97).double()
    exact = blobs.noised(level.a.item(), level.b.item()).log_prob(x[:, None]).exp()
    bell = torch.exp(-(x**2) / 2) / (2 * torch.pi) ** 0.5
    highest = blobs.log_prob(x[:, None]).exp().max()
    curve, end, _ = flow_shown(slider)
    scale = 190 / highest  # the highest point of all reaches from 200 to 10; heights have two digits
    assert curve == pytest.approx((exact * scale).tolist(), abs=0.03)
    assert end == pytest.approx((bell * scale).tolist(), abs=0.03)


def test_the_film_plays_forwards_and_back(slider: Page) -> None:
    at = f"document.querySelector('{FLOW} label').textContent"
    slider.focus(FLOW_SLIDER)
    slider.keyboard.press("Home")
    first = flow_shown(slider)
    slider.click(f"{FLOW} button:text('Forwards')")
    slider.wait_for_function(f"{at} === 't = 1000'")
    last = flow_shown(slider)
    assert first[0] != last[0]
    assert first[2] != last[2]
    slider.click(f"{FLOW} button:text('Back')")
    slider.wait_for_function(f"{at} === 't = 0'")
    assert flow_shown(slider) == first, "played back it must return on the same way"


def test_the_film_stops_where_a_hand_puts_it(slider: Page) -> None:
    slider.focus(FLOW_SLIDER)
    slider.keyboard.press("Home")
    slider.click(f"{FLOW} button:text('Forwards')")
    box = slider.locator(FLOW_SLIDER).bounding_box()
    assert box
    slider.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    t = slider.inner_text(f"{FLOW} label")
    slider.wait_for_timeout(300)
    assert slider.inner_text(f"{FLOW} label") == t
    assert 400 <= int(t.removeprefix("t = ")) <= 600


def test_a_finger_moves_the_film(browser: Browser, site: Path) -> None:
    problems: list[str] = []
    context = browser.new_context(viewport=web.PHONE, has_touch=True)
    page = web.watched_page(context, "file://", problems)
    web.open_page(page, (site / f"{CHAPTER}.html").as_uri())
    before = flow_shown(page)
    page.locator(FLOW_SLIDER).scroll_into_view_if_needed()
    box = page.locator(FLOW_SLIDER).bounding_box()
    assert box
    page.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    assert 650 <= int(page.inner_text(f"{FLOW} label").removeprefix("t = ")) <= 850
    curve, _, dots = flow_shown(page)
    assert curve != before[0]
    assert dots != before[2]
    context.close()
    assert not problems, problems


UNET, FIELD = "05-unet", '[data-widget="receptive-field"]'


def test_the_field_is_that_of_a_stack_of_convolutions(browser: Browser, site: Path) -> None:
    """Every slider moved: the number is that of the gradient of a stack, and the picture changes with it."""
    problems: list[str] = []
    context = browser.new_context(viewport=web.PHONE)
    page = web.watched_page(context, "file://", problems)
    web.open_page(page, (site / f"{UNET}.html").as_uri())
    drawn = []
    chosen = {"depth": 4, "kernel": 3, "halvings": 0}
    for what, keys, value in [("depth", [], 4), ("depth", ["Home", "ArrowRight"], 2), ("kernel", ["End"], 7),
                              ("depth", ["End"], 9), ("halvings", ["ArrowRight", "ArrowRight"], 2)]:  # fmt: skip
        page.focus(f"{FIELD} #receptive-field-{what}")
        for key in keys:
            page.keyboard.press(key)
        chosen[what] = value
        strides = [2 if 1 <= layer <= chosen["halvings"] else 1 for layer in range(chosen["depth"])]
        network = torch.nn.Sequential(*[torch.nn.Conv1d(1, 1, chosen["kernel"], s, bias=False) for s in strides])
        for weight in network.parameters():
            torch.nn.init.constant_(weight, 1 / chosen["kernel"])
        x = torch.zeros(1, 1, 400, requires_grad=True)
        (slope,) = torch.autograd.grad(network(x)[0, 0, 3], x)
        assert f"It sees {int((slope > 0).sum())} pixels in a row" in page.inner_text(f"{FIELD} .widget-note")
        drawn.append(page.evaluate(f"document.querySelector('{FIELD} canvas').toDataURL()"))
    assert len(set(drawn)) == len(drawn), "two stacks have the same picture"
    context.close()
    assert not problems, problems


def test_an_unknown_widget_is_an_error(tmp_path: Path) -> None:
    class Here(widgets.Widget):
        env = type("Environment", (), {"srcdir": str(tmp_path)})()

    directives.register_directive("widget-here", Here)
    folder = tmp_path / "_static" / "widgets"
    folder.mkdir(parents=True)
    (folder / "known.js").write_text("")
    settings = {"report_level": 5, "halt_level": 5}
    good = publish_doctree(".. widget-here:: known", settings_overrides=settings)
    assert [node.astext() for node in good.findall(nodes.raw)] == ['<div class="widget" data-widget="known"></div>']
    bad = publish_doctree(".. widget-here:: unknown", settings_overrides=settings)
    assert "there is no widget" in bad.astext()
