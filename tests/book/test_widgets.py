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
    slider.focus(".widget input[type=range]")
    for key in keys:
        slider.keyboard.press(key)
    assert slider.inner_text(".widget label") == f"t = {t}"
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
    slider.focus(".widget input[type=range]")
    slider.keyboard.press("Home")
    drawn = slider.evaluate(
        """() => [...document.querySelector(".widget canvas").getContext("2d").getImageData(0, 0, 28, 28).data]
            .filter((value, index) => index % 4 === 0)"""
    )
    assert drawn == pixels


def test_new_noise_is_new(slider: Page) -> None:
    slider.focus(".widget input[type=range]")
    slider.keyboard.press("End")
    picture = "document.querySelector('.widget canvas').toDataURL()"
    before = slider.evaluate(picture)
    slider.click(".widget button")
    assert slider.evaluate(picture) != before


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
