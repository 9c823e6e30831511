"""The interactive figures, moved by the keyboard in a real browser, must show the library's own numbers."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import widgets
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import directives
from playwright.sync_api import Browser, Page

from _support import browser as web
from diffusion_book import data, denoise, samplers, schedules
from diffusion_book.data.images import to_uint8

CHAPTER = "02-forward-process"
SLIDE_SHOW, FLOW = '[data-widget="forward-slider"]', '[data-widget="forward-flow"]'
LOSS = '[data-widget="loss-by-time"]'
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


@pytest.fixture
def losses(browser: Browser, site: Path) -> Iterator[Page]:
    """The page of the losses, on a phone with a finger."""
    problems: list[str] = []
    context = browser.new_context(viewport=web.PHONE, has_touch=True)
    page = web.watched_page(context, "file://", problems)
    web.open_page(page, (site / "04-loss.html").as_uri())
    yield page
    context.close()
    assert not problems, problems


def loss_data(site: Path) -> dict[str, Any]:
    soup = BeautifulSoup((site / "04-loss.html").read_text("utf8"), "html.parser")
    data: dict[str, Any] = json.loads(soup.select_one("#loss-by-time-data").string)
    return data


def heights(page: Page, name: str) -> list[float]:
    """The second numbers of the points of a path."""
    path = page.get_attribute(f"{LOSS} .widget-{name}", "d")
    return [float(point.split(",")[1]) for point in path.strip("M Z").split(" L ")]


def test_a_button_switches_the_weighting(losses: Page, site: Path) -> None:
    """By a finger and by the keyboard: the strip is then floor and regret of that run, as the page computed them."""
    data = loss_data(site)
    floor, seen = torch.tensor(data["floor"]).double(), set()
    assert len(data["runs"]) == 6
    for number, run in enumerate(data["runs"]):
        button = losses.locator(f"{LOSS} button").nth(number)
        if number % 2:
            button.focus()
            losses.keyboard.press("Enter")
        else:
            button.tap()
        assert button.inner_text() == run["name"]
        assert losses.locator(f"{LOSS} [aria-pressed=true]").all_inner_texts() == [run["name"]]
        loss = floor + torch.tensor(run["regret"]).double()
        both = torch.cat([loss, floor.flip(0)])
        assert heights(losses, "strip") == pytest.approx((214 - both / 1.2 * 190).tolist(), abs=0.02)
        regret = torch.tensor(run["regret"]).double().clamp(min=1e-5).log10()
        assert heights(losses, "regret") == pytest.approx((414 - (regret + 5) / 5 * 150).tolist(), abs=0.02)
        seen.add(losses.get_attribute(f"{LOSS} .widget-strip", "d"))
    assert len(seen) == 6


def test_the_slider_of_the_losses_reads_off_a_time(losses: Page, site: Path) -> None:
    data = loss_data(site)
    simple = next(run for run in data["runs"] if run["name"] == "simple")
    read = {}
    for key, index in [("Home", 0), ("End", len(data["times"]) - 1)]:
        losses.focus(f"{LOSS} input")
        losses.keyboard.press(key)
        assert losses.inner_text(f"{LOSS} label") == f"t = {data['times'][index]}"
        numbers = [float(word) for word in losses.inner_text(f"{LOSS} output").split() if word[0].isdigit()]
        least, regret = data["floor"][index], simple["regret"][index]
        assert numbers == pytest.approx([least, regret, least + regret], abs=6e-4)
        read[key] = losses.get_attribute(f"{LOSS} svg > line:last-of-type", "x1")
    assert float(read["Home"]) < float(read["End"])
    box = losses.locator(f"{LOSS} input").bounding_box()
    assert box
    losses.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert losses.inner_text(f"{LOSS} label") == f"t = {data['times'][len(data['times']) // 2]}"


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


SAMPLERS = '[data-widget="samplers-flow"]'


def particles(page: Page) -> list[tuple[float, float]]:
    """Where the dots of the square stand, in the coordinates of the data."""
    dots = page.query_selector_all(f"{SAMPLERS} svg:first-child .widget-dot")
    at = [(float(dot.get_attribute("cx") or "nan"), float(dot.get_attribute("cy") or "nan")) for dot in dots]
    return [(x / 320 * 6.4 - 3.2, 3.2 - y / 320 * 6.4) for x, y in at]


def test_the_particles_end_where_the_library_takes_them(browser: Browser, site: Path) -> None:
    problems: list[str] = []
    context = browser.new_context(viewport=web.PHONE, has_touch=True)
    page = web.watched_page(context, "file://", problems)
    web.open_page(page, (site / "07-improved-sampling.html").as_uri())
    schedule, ring = schedules.EDM(sigma_max=80.0), data.ring_of_gaussians()
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, sampler in (("Euler (DDIM)", samplers.ddim), ("2M", samplers.dpm_solver), ("UniPC", samplers.unipc)):
        page.locator(f"{SAMPLERS} button", has_text=name).click()
        for evaluations in (8, 32):
            page.click(f"{SAMPLERS} button:text-is('{evaluations}')")
            page.focus(f"{SAMPLERS} input")
            page.keyboard.press("Home")
            begin = particles(page)
            page.keyboard.press("End")
            assert page.inner_text(f"{SAMPLERS} label") == f"step {evaluations} of {evaluations}"
            sigmas = torch.logspace(math.log10(80), -2, evaluations, dtype=torch.float64).tolist()
            ends = sampler(denoise.exact(ring, schedule), schedule, 80 * noise[:20], [*sigmas, 0.0])
            assert begin != particles(page)
            assert torch.tensor(particles(page)) == pytest.approx(ends.float(), abs=0.01)
    page.tap(f"{SAMPLERS} button:text('DDPM')")
    assert "noise" in page.inner_text(f"{SAMPLERS} .widget-note")
    page.tap(f"{SAMPLERS} button:text('Run')")
    page.wait_for_function(f"document.querySelector('{SAMPLERS} label').textContent === 'step 32 of 32'")
    context.close()
    assert not problems, problems


@pytest.fixture
def finger(browser: Browser) -> Iterator[Page]:
    """A phone with a touch screen, which has opened nothing yet."""
    problems: list[str] = []
    context = browser.new_context(viewport=web.PHONE, has_touch=True)
    yield web.watched_page(context, "file://", problems)
    context.close()
    assert not problems, problems


def points(page: Page, place: str, of: str) -> list[tuple[float, float]]:
    """Where the circles or the points of a path stand, in the picture's own units."""
    if of == "circle":
        found = page.query_selector_all(place)
        return [(float(node.get_attribute("cx") or "nan"), float(node.get_attribute("cy") or "nan")) for node in found]
    path = page.get_attribute(place, "d") or ""
    return [(float(x), float(y)) for x, y in (point.split(",") for point in path.strip("M Z").split(" L "))]


def inside(page: Page, picture: str, x: float, y: float) -> tuple[float, float]:
    """A place of the picture, in shares of its width and height, as a place on the screen."""
    page.locator(picture).scroll_into_view_if_needed()
    box = page.locator(picture).bounding_box()
    assert box
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


GAUSSIAN = '[data-widget="conditional-gaussian"]'


def slice_shown(page: Page) -> tuple[float, float, float, float]:
    """Mean and standard deviation of the bell as drawn, and the two numbers of the note."""
    drawn = points(page, f"{GAUSSIAN} .widget-curve", "path")[1:-1]
    height = torch.tensor([3.2 - y / 320 * 6.4 for _, y in drawn], dtype=torch.float64)
    weight = torch.tensor([x for x, _ in drawn], dtype=torch.float64)
    mean = (height * weight).sum() / weight.sum()
    std = ((height - mean) ** 2 * weight).sum() / weight.sum()
    note = page.inner_text(f"{GAUSSIAN} .widget-note").split("Now it is ")[1].rstrip(".").replace("−", "-").split(" ± ")
    return float(mean), float(std.sqrt()), float(note[0]), float(note[1])


def test_the_slice_is_the_conditional_gaussian(finger: Page, site: Path) -> None:
    """By the keyboard: against the covariance matrix, cut and inverted, of x_t and x_0."""
    web.open_page(finger, (site / "00-prerequisites.html").as_uri())
    seen = set()
    for a, presses in ((0.8, 0), (0.6, 4), (0.4, 4)):
        finger.focus(f"{GAUSSIAN} #conditional-gaussian-signal")
        for _ in range(presses):
            finger.keyboard.press("ArrowLeft")
        assert finger.inner_text(f"{GAUSSIAN} label[for$=signal]") == f"a = {a:.2f}"
        for x_t, key in ((1.0, None), (1.1, "ArrowRight"), (1.0, "ArrowLeft")):
            finger.focus(f"{GAUSSIAN} #conditional-gaussian-seen")
            if key:
                finger.keyboard.press(key)
            C = torch.tensor([[1.0, a], [a, 1.0]], dtype=torch.float64)
            precision = float(torch.linalg.inv(C)[1, 1])  # of x_0 once x_t is fixed
            mean, std = -float(torch.linalg.inv(C)[1, 0]) * x_t / precision, precision**-0.5
            shown = slice_shown(finger)
            assert shown[:2] == pytest.approx((mean, std), abs=0.02)
            assert shown[2:] == pytest.approx((mean, std), abs=0.0051)
            seen.add(
                (
                    finger.get_attribute(f"{GAUSSIAN} .widget-curve", "d"),
                    str(points(finger, f"{GAUSSIAN} .widget-dot", "circle")),
                )
            )
    assert len(seen) == 6  # three signals and two cuts


def test_a_finger_and_the_mouse_move_the_cut(finger: Page, site: Path) -> None:
    web.open_page(finger, (site / "00-prerequisites.html").as_uri())
    picture = f"{GAUSSIAN} svg >> nth=0"
    shown = [slice_shown(finger)]
    finger.touchscreen.tap(*inside(finger, picture, 0.25, 0.5))
    assert finger.inner_text(f"{GAUSSIAN} label[for$=seen]") == "seen −1.60"
    shown.append(slice_shown(finger))
    finger.mouse.move(*inside(finger, picture, 0.5, 0.5))
    finger.mouse.down()
    finger.mouse.move(*inside(finger, picture, 0.75, 0.3), steps=4)
    finger.mouse.up()
    assert finger.inner_text(f"{GAUSSIAN} label[for$=seen]") == "seen 1.60"
    shown.append(slice_shown(finger))
    assert [mean for _, _, mean, _ in shown] == pytest.approx([0.8, -1.28, 1.28])
    assert len({std for *_, std in shown}) == 1, "wherever it is cut, the slice has one width"


FIELD_OF_SCORE = '[data-widget="score-field"]'


def at_the_probe(page: Page) -> tuple[list[float], list[float], list[float]]:
    """The point that is tried, its score and its best guess, as the note says them."""
    numbers = re.findall(r"\((\S+), (\S+)\)", page.inner_text(f"{FIELD_OF_SCORE} .widget-note").replace("−", "-"))
    x, score, guess = ([float(one), float(other)] for one, other in numbers)
    return x, score, guess


def test_the_field_is_the_score_of_the_library(finger: Page, site: Path) -> None:
    """At the point that is tried, and the direction of every arrow, at three times."""
    web.open_page(finger, (site / "03-reverse-process.html").as_uri())
    ring, schedule = data.ring_of_gaussians(), schedules.linear()
    drawn = set()
    for keys, t in (([], 1000), (["ArrowRight"] * 20, 600), (["ArrowRight"] * 26, 80)):
        finger.focus(f"{FIELD_OF_SCORE} input")
        for key in keys:
            finger.keyboard.press(key)
        assert finger.inner_text(f"{FIELD_OF_SCORE} label") == f"t = {t}"
        a, b = (float(number) for number in (schedule.at(t).a, schedule.at(t).b))
        paths = [path.get_attribute("d") or "" for path in finger.query_selector_all(f"{FIELD_OF_SCORE} .widget-arrow")]
        ends = torch.tensor(
            [[float(n) for n in re.findall(r"-?[\d.]+", path)[:4]] for path in paths], dtype=torch.float64
        )
        at, way = ends[:, :2] / 420 * 6.4 - 3.2, ends[:, 2:] - ends[:, :2]
        at[:, 1] *= -1
        way[:, 1] *= -1
        at.requires_grad_()
        (score,) = torch.autograd.grad(ring.noised(a, b).log_prob(at).sum(), at)
        long = way.norm(dim=1) > 8  # pixels, of which a tenth is rounded away
        cosine = torch.nn.functional.cosine_similarity(way, score)
        assert len(paths) == 196
        assert long.sum() > 100
        assert float(cosine[long].min()) > 0.99
        x, shown, guess = at_the_probe(finger)
        tried = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        (exact,) = torch.autograd.grad(ring.noised(a, b).log_prob(tried).sum(), tried)
        assert shown == pytest.approx(exact[0].tolist(), abs=0.006)
        assert guess == pytest.approx(ring.posterior_mean(tried.detach(), a, b)[0].tolist(), abs=0.006)
        drawn.add(tuple(paths))
    assert len(drawn) == 3


def test_the_point_in_the_field_follows_mouse_finger_and_keys(finger: Page, site: Path) -> None:
    web.open_page(finger, (site / "03-reverse-process.html").as_uri())
    picture, tried = f"{FIELD_OF_SCORE} svg", [at_the_probe(finger)]
    finger.touchscreen.tap(*inside(finger, picture, 0.75, 0.5))
    tried.append(at_the_probe(finger))
    assert tried[-1][0] == pytest.approx([1.6, 0], abs=0.03)
    finger.mouse.click(*inside(finger, picture, 0.5, 0.25))
    tried.append(at_the_probe(finger))
    assert tried[-1][0] == pytest.approx([0, 1.6], abs=0.03)
    finger.focus(picture)
    finger.keyboard.press("ArrowLeft")
    finger.keyboard.press("ArrowDown")
    tried.append(at_the_probe(finger))
    assert tried[-1][0] == pytest.approx([tried[-2][0][0] - 0.1, tried[-2][0][1] - 0.1], abs=0.011)
    assert len({str(one) for one in tried}) == 4


def test_the_particles_flow_back_to_the_blobs(finger: Page, site: Path) -> None:
    web.open_page(finger, (site / "03-reverse-process.html").as_uri())
    at_noise = points(finger, f"{FIELD_OF_SCORE} .widget-dot", "circle")
    finger.tap(f"{FIELD_OF_SCORE} button")
    finger.wait_for_function(f"document.querySelector('{FIELD_OF_SCORE} label').textContent === 't = 0'")
    at_data = points(finger, f"{FIELD_OF_SCORE} .widget-dot", "circle")
    x = torch.tensor(at_data, dtype=torch.float64) / 420 * 6.4 - 3.2
    x[:, 1] *= -1
    distance = torch.cdist(x, data.ring_of_gaussians().mean).amin(1)
    assert len(at_data) == 60
    assert at_data != at_noise
    assert float((distance < 4 * 0.15).double().mean()) > 0.95
