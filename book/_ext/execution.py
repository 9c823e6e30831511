"""Execute pages in the `cpu` profile, know when a cached run is stale, and say on the page what it took."""

import hashlib
import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "DIFFUSION_BOOK_PROFILE"


def cores() -> int:
    """The CPU cores that a page may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint(root: Path, profile: str) -> str:
    """A hash of what outputs depend on besides a page's own cells: library, versions, exercises, machine.

    The cache of notebooks compares only the cells; an edit of the library would leave old outputs on the page.
    """
    digest = hashlib.sha256(f"{profile} {cores()}".encode())
    sources = [*root.glob("src/**/*.py"), *root.glob("book/exercises/*.py"), root / "constraints.txt"]
    for path in sorted(sources):
        if path.exists():
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def choose_cache(app: Sphinx, config: Config) -> None:
    """Run before MyST-NB reads its settings. A changed path also makes Sphinx read every page again."""
    profile = os.environ.setdefault(PROFILE, "cpu")  # the site shows what a reader's laptop can do
    cache = ROOT / "_build" / ".jupyter_cache" / fingerprint(ROOT, profile)
    config.nb_execution_cache_path = str(cache)  # type: ignore[attr-defined]


def duration(seconds: float) -> str:
    """`84 s`, or `3 min 5 s` from two minutes on."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


def say_what_it_took(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """End each executed page with the time that its outputs took."""
    run = getattr(app.env, "nb_metadata", {}).get(docname, {}).get("exec_data")
    sections = list(doctree.findall(nodes.section))
    if app.builder.format != "html" or not run or run["runtime"] is None or not sections:
        return
    count = cores()
    text = (
        f"Every output on this page was computed in {duration(run['runtime'])} "
        f"on {count} CPU core{'s' * (count != 1)}, profile {os.environ[PROFILE]}."
    )
    sections[0] += nodes.paragraph(text, text, classes=["computed"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", choose_cache)
    app.connect("doctree-resolved", say_what_it_took)
    return {"parallel_read_safe": True}
