"""Execute pages side by side in the `cpu` profile, know when a cached run is stale, and say on the page what it took.

Each page has one core: one thread computes it, so that its results do not depend on how many cores there are, and as
many pages run at a time as there are cores. (A notebook does the same in its first cell, see notebooks.py.) Pages run
before Sphinx reads the first of them, and leave their outputs in the cache where MyST-NB looks for them.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from joblib import cpu_count as cores
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_cache.cache.db import NbCacheRecord
from myst_nb.core.read import create_nb_reader
from side_by_side import Page, Run, run_all
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "DIFFUSION_BOOK_PROFILE"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # torch's, its and NumPy's linear algebra's
BUDGET = 90  # seconds that a page may take on its core
logger = logging.getLogger(__name__)


# Where outputs are kept


def fingerprint(root: Path, profile: str) -> str:
    """A hash of what outputs depend on besides a page's own cells: profile, library, versions, exercises, records.

    The cache of notebooks compares only the cells; an edit of the library would leave old outputs on the page.
    """
    digest = hashlib.sha256(profile.encode())
    kept = [*root.glob("book/exercises/*.py"), *root.glob("book/recorded/*.json")]
    sources = [*root.glob("src/**/*.py"), *kept, root / "constraints.txt"]
    for path in sorted(sources):
        if path.exists():
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def profile() -> str:
    """That in force, or the site's own, which shows what a reader's laptop can do."""
    return os.environ.get(PROFILE, "cpu")


def cache_folder(root: Path) -> Path:
    """Where the outputs lie that pages would have now."""
    return root / "_build" / ".jupyter_cache" / fingerprint(root, profile())


def choose_cache(app: Sphinx, config: Config) -> None:
    """Run before MyST-NB reads its settings. A changed path also makes Sphinx read every page again."""
    config.nb_execution_cache_path = str(cache_folder(Path(app.srcdir).parent))  # type: ignore[attr-defined]


def latest(root: Path) -> dict[str, NbCacheRecord]:
    """The last record of each page in the cache, by the name of its file."""
    records = get_cache(cache_folder(root)).list_cache_records()
    return {Path(record.uri).stem: record for record in sorted(records, key=lambda record: record.created)}


# Execution


def on_one_core() -> bool:
    """Whether a page has a core for itself; in the `gpu` profile it has the whole machine."""
    return profile() != "gpu"


def run_here(pages: list[Page], timeout: int, times: Mapping[str, float]) -> Iterator[Run]:
    """Run pages as many at a time as there are cores; their kernels inherit what is said here."""
    os.environ[PROFILE] = profile()
    if on_one_core():
        os.environ |= dict.fromkeys(THREADS, "1")
    at_once = cores() if on_one_core() else 1
    logger.info("executing %d pages, %d at a time: %s", len(pages), at_once, ", ".join(page.name for page in pages))
    return run_all(pages, at_once, timeout, times)


def execute(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Run those of the pages to be read whose outputs are not in the cache; where one fails, so does the build."""
    if app.config.nb_execution_mode != "cache":
        return
    folder = Path(app.config.nb_execution_cache_path)
    cache = get_cache(folder)
    read = [page for name in docnames if (page := read_page(app, name))]
    pages = [page for page in read if not is_known(cache, page)]
    if not pages:
        return
    times = Times(folder.parent / "times.json")
    failed = 0
    for run in run_here(pages, app.config.nb_execution_timeout, times.seconds):
        if run.error:
            failed += 1
            logger.warning("%s", run.error, location=(run.page.name, None), type="execution")
        else:
            keep(cache, run)
            times.remember(run)
            logger.info("%s", describe(run))
    if failed:
        raise ExtensionError(f"{failed} of {len(pages)} pages could not be executed; see the warnings")


def read_page(app: Sphinx, docname: str) -> Page | None:
    """A page as MyST-NB will read it, or None where it has no code."""
    path = Path(app.env.doc2path(docname))
    source = [path.read_text("utf8")]
    app.env.prepare_settings(docname)
    app.emit("source-read", docname, source)
    reader = create_nb_reader(str(path), app.env.myst_config, app.env.mystnb_config, source[0])
    return Page(docname, path, reader.read(source[0])) if reader else None


def is_known(cache: JupyterCacheAbstract, page: Page) -> bool:
    try:
        cache.match_cache_notebook(page.notebook)
    except KeyError:
        return False
    return True


def keep(cache: JupyterCacheAbstract, run: Run) -> None:
    """As MyST-NB keeps what it runs itself."""
    data = {"execution_seconds": run.seconds, "cpu_seconds": run.cpu_seconds}
    bundle = CacheBundleIn(run.page.notebook, str(run.page.path), data=data)
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


class Times:
    """What pages took when they ran last, whatever has changed since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text("utf8")) if path.is_file() else {}

    def remember(self, run: Run) -> None:
        self.seconds[run.page.name] = round(run.cpu_seconds, 1)
        self.path.write_text(json.dumps(self.seconds, indent=1, sort_keys=True), "utf8")


def describe(run: Run) -> str:
    over = f", over its budget of {BUDGET} s" if run.cpu_seconds > BUDGET else ""
    return f"  {run.page.name}: {run.seconds:.0f} s, {run.cpu_seconds:.0f} s of computing{over}"


# What it took


def duration(seconds: float) -> str:
    """`84 s`, or `3 min 5 s` from two minutes on."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


def took(seconds: float) -> str:
    """`84 s on one CPU core`."""
    return duration(seconds) + (" on one CPU core" if on_one_core() else "")


def say_what_it_took(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """End each executed page with the time that its outputs took."""
    run = getattr(app.env, "nb_metadata", {}).get(docname, {}).get("exec_data")
    sections = list(doctree.findall(nodes.section))
    if app.builder.format != "html" or not run or run["runtime"] is None or not sections:
        return
    text = f"Every output on this page was computed in {took(run['runtime'])}, profile {profile()}."
    sections[0] += nodes.paragraph(text, text, classes=["computed"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", choose_cache)
    app.connect("env-before-read-docs", execute)
    app.connect("doctree-resolved", say_what_it_took)
    return {"parallel_read_safe": True}
