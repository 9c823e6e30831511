"""Build the sample page with the book's own settings: `python tests/book/sample/build.py FOLDER` fills html, notebooks.

Then `python tests/_support/look.py FOLDER/html/08-sample.html pictures --open` shows all elements of a chapter.
"""

import shutil
import sys
from pathlib import Path

from jupyter_book.sphinx import build_sphinx

ROOT = Path(__file__).resolve().parents[3]
TOC = "format: jb-book\nroot: 08-sample\nchapters:\n  - file: references\n"


def main(folder: Path) -> int:
    source = folder / "book"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(Path(__file__).parent, source, ignore=shutil.ignore_patterns("build.py", "__pycache__"))
    shutil.copytree(ROOT / "book" / "_static", source / "_static")
    shutil.copy(ROOT / "book" / "references.bib", source)
    toc = folder / "_toc.yml"
    toc.write_text(TOC, "utf8")
    for builder in ("html", "notebooks"):
        failed = build_sphinx(
            source,
            folder / builder,
            noconfig=True,
            path_config=ROOT / "_config.yml",
            builder=builder,
            doctreedir=str(folder / "doctrees"),
            warningiserror=True,
            keep_going=True,
            confoverrides={"external_toc_path": toc.as_posix(), "latex_individualpages": False},
        )
        if failed:
            return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    raise SystemExit(main(Path(sys.argv[1]).resolve()))
