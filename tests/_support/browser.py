"""A real browser without a network: Debian's Chromium, driven by Playwright."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ["chromium", "chromium-browser", "google-chrome"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
ALL_MATH = "() => window.typesetAll?.()"  # book/_static/math.js typesets only what is near the screen


def find_browser() -> str:
    """The path of a Chromium; as root on Debian it is installed where there is none.

    Raises:
        RuntimeError: there is none; the message says what to install.
    """
    if path := os.environ.get("CHROMIUM"):
        if shutil.which(path):
            return path
        raise RuntimeError(f"$CHROMIUM names {path}, which is not a program")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not found and shutil.which("apt-get") and os.geteuid() == 0:
        quiet: dict[str, Any] = {"check": False, "capture_output": True, "text": True}
        subprocess.run(["apt-get", "update"], **quiet)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        subprocess.run(command, env=environment, **quiet)
        found = shutil.which("chromium")
    if not found:
        raise RuntimeError(
            f"the tests of the site need a browser, and none of {', '.join(NAMES)} is installed. On Debian or Ubuntu: "
            "`sudo apt-get install chromium`. Elsewhere install Chrome or Chromium and name it in $CHROMIUM."
        )
    return found


@contextmanager
def launch() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address at which the folder is served, on this machine only."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def watched_page(context: BrowserContext, allowed: str, problems: list[str]) -> Page:
    """A page that may load only what begins with `allowed`; whatever goes wrong is added to `problems`."""

    def gate(route: Route) -> None:
        url = route.request.url
        if url.startswith((allowed, "data:", "blob:")):
            route.continue_()
        else:
            problems.append(f"asks the network for {url}")
            route.abort()

    page = context.new_page()
    page.route("**/*", gate)
    page.on("console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.on("response", lambda r: problems.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    return page


def open_page(page: Page, url: str) -> None:
    """Load a page and wait for its math and its fonts."""
    page.goto(url, wait_until="load")
    page.evaluate(ALL_MATH)
    page.evaluate("() => document.fonts.ready.then(() => true)")


def settle(page: Page) -> None:
    """Bring every fade and slide to its end, so that what is measured is what stays."""
    page.wait_for_timeout(50)
    page.evaluate("() => document.getAnimations().forEach(a => { try { a.finish(); } catch {} })")
    page.wait_for_timeout(50)


def set_theme(page: Page, theme: str) -> None:
    """As the theme's own button does, without its transitions."""
    page.evaluate(
        """theme => {
            document.documentElement.dataset.theme = theme;
            document.documentElement.dataset.mode = theme;
        }""",
        theme,
    )
    settle(page)


def unfold(page: Page) -> None:
    """Open every hint, solution and folded cell."""
    page.evaluate("""() => document.querySelectorAll("details").forEach(fold => { fold.open = true; })""")
    settle(page)
