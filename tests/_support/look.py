"""Take pictures of a page of the built site, to look at: `python tests/_support/look.py 03-reverse-process pictures`.

Each is taken on a desk, on a phone and on a desk at night, in slices from top to bottom. PAGE is a name from the table
of contents or the path of any HTML file; `--open` unfolds hints and solutions.
"""

import argparse
from pathlib import Path

import browser as web
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
SLICE = 2400  # pixels: taller pictures are hard to look at
VIEWS = {"wide": (web.DESK, "light"), "phone": (web.PHONE, "light"), "dark": (web.DESK, "dark")}


def slices(page: Page, stem: Path) -> list[Path]:
    """Pictures of the whole page, each at most SLICE pixels high."""
    height = page.evaluate("document.documentElement.scrollHeight")
    width = page.viewport_size["width"] if page.viewport_size else web.DESK["width"]
    paths = []
    for index, top in enumerate(range(0, height, SLICE)):
        path = stem.with_name(f"{stem.name}-{index:02d}.png")
        clip = {"x": 0, "y": top, "width": width, "height": min(SLICE, height - top)}
        page.screenshot(path=path, clip=clip, full_page=True)
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--open", action="store_true", help="unfold hints and solutions")
    parser.add_argument("--view", choices=VIEWS, help="only this one")
    options = parser.parse_args()
    path = Path(options.page)
    if path.suffix != ".html":
        path = ROOT / "_build" / "html" / f"{options.page}.html"
    if not path.is_file():
        raise SystemExit(f"there is no {path}: run `make book`, or name the HTML file of one chapter")
    options.folder.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    with web.launch() as browser:
        for view, (size, theme) in VIEWS.items():
            if options.view not in (None, view):
                continue
            page = web.watched_page(browser.new_context(viewport=size), "file://", problems)
            web.open_page(page, path.resolve().as_uri())
            web.set_theme(page, theme)
            if options.open:
                web.unfold(page)
            page.wait_for_timeout(300)
            for picture in slices(page, options.folder / f"{path.stem}-{view}"):
                print(picture)
    for problem in sorted(set(problems)):
        print("problem:", problem)


if __name__ == "__main__":
    main()
