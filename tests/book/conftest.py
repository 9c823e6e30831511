"""What the tests of the book share: its pages, the built site and the exported notebooks."""

from collections.abc import Iterator
from pathlib import Path

import api
import pytest
from playwright.sync_api import Browser

from _support import browser as web
from _support import rules

ROOT = Path(__file__).resolve().parents[2]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `chapter` or `page_name` runs once for each chapter, or each page of the site."""
    if "chapter" in metafunc.fixturenames:
        chapters = rules.chapters(ROOT)
        metafunc.parametrize("chapter", chapters, ids=[path.stem for path in chapters])
    if "page_name" in metafunc.fixturenames:
        metafunc.parametrize("page_name", [*rules.toc_pages(ROOT), *api.source_pages()])


def sources() -> list[Path]:
    """Every file that the site is made from."""
    patterns = ["*.yml", "book/**/*.*", "src/**/*.py"]
    found = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def built(folder: Path, pattern: str, command: str) -> Path:
    """The folder, if what is in it is newer than the book's sources."""
    files = list(folder.glob(pattern))
    if not files:
        pytest.fail(f"there is nothing in {folder.relative_to(ROOT)}: run `{command}` first", pytrace=False)
    newest = max(sources(), key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime > max(path.stat().st_mtime for path in files):
        name, place = newest.relative_to(ROOT), folder.relative_to(ROOT)
        pytest.fail(f"{name} changed after {place} was made: run `{command}` again", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def site() -> Path:
    return built(ROOT / "_build" / "html", "*.html", "make book")


@pytest.fixture(scope="session")
def notebooks() -> Path:
    return built(ROOT / "_build" / "notebooks", "*.ipynb", "make notebooks")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One for each process that runs tests."""
    try:
        web.find_browser()
    except RuntimeError as error:
        pytest.fail(str(error), pytrace=False)  # a site that nobody opened is not a tested site
    with web.launch() as running:
        yield running
