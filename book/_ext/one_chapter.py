"""Execute and build one chapter, fast: `python book/_ext/one_chapter.py 03`; `api` builds the library's reference.

The page goes to _build/chapter/html and shares the cache of executions with the whole book. References to pages
that are not built here are reported and left open; a cell that fails still fails the build.
"""

import sys
from pathlib import Path

from jupyter_book.sphinx import build_sphinx

ROOT = Path(__file__).resolve().parents[2]
BOOK, OUTPUT = ROOT / "book", ROOT / "_build" / "chapter"


def find_page(wanted: str) -> str:
    """The one page whose file name begins with what was asked for, such as `03` or `status`."""
    pages = [path.stem for path in sorted(BOOK.glob("*.md"))]
    found = [page for page in pages if page.startswith(wanted)]
    if len(found) != 1:
        raise SystemExit(f"{wanted!r} should begin the name of one page; the pages are: {', '.join(pages)}")
    return found[0]


def main(wanted: str) -> int:
    page = "api/index" if wanted == "api" else find_page(wanted)
    below = [f"api/{path.stem}" for path in sorted(BOOK.glob("api/*.md"))] if wanted == "api" else []
    files = "".join(f"  - file: {name}\n" for name in [*below, "references"] if name != page)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    toc = OUTPUT / "_toc.yml"
    toc.write_text(f"format: jb-book\nroot: {page}\nchapters:\n{files}", "utf8")
    result = build_sphinx(
        BOOK,
        OUTPUT / "html",
        noconfig=True,
        path_config=ROOT / "_config.yml",
        confoverrides={"external_toc_path": toc.as_posix(), "latex_individualpages": False},
    )
    if result:  # a status, or the exception that ended the build
        return 1
    print(f"\nOpen {(OUTPUT / 'html' / page).relative_to(ROOT)}.html")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    raise SystemExit(main(sys.argv[1]))
