"""Pages run side by side, once, with one thread each; what fails says where, and fails the build."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import execution
import nbformat
import psutil
import pytest
import twice
from nbformat.v4 import new_code_cell, new_notebook
from side_by_side import Page, longest_first, run, run_all
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace, patch_docutils


def page(folder: Path, name: str, *cells: str) -> Page:
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    sources = [new_code_cell(dedent(cell).strip()) for cell in cells]
    return Page(name, folder / f"{name}.md", new_notebook(cells=sources, metadata=metadata))


# Side by side


def test_pages_run_at_the_same_time(tmp_path):
    """Each waits for the other, so that neither would end alone."""
    meet = """
        import pathlib, time
        pathlib.Path("{0}.here").touch()
        while not pathlib.Path("{1}.here").exists(): time.sleep(0.01)
        """
    pages = [page(tmp_path, "a", meet.format("a", "b")), page(tmp_path, "b", meet.format("b", "a"))]
    assert [done.error for done in run_all(pages, at_once=2, timeout=120, times={})] == ["", ""]


def test_no_more_pages_run_than_there_are_cores(tmp_path):
    alone = """
        import pathlib, time
        pathlib.Path("busy").mkdir()
        time.sleep(2)
        pathlib.Path("busy").rmdir()
        """
    pages = [page(tmp_path, name, alone) for name in "ab"]
    assert [done.error for done in run_all(pages, at_once=1, timeout=120, times={})] == ["", ""]


def test_the_longest_page_is_the_first(tmp_path):
    """By the times of the last run; a page without one is guessed from its code, at the pace of the others."""
    pages = [page(tmp_path, name, "x" * length) for name, length in {"a": 99, "b": 199, "c": 399, "new": 299}.items()]
    assert [p.name for p in longest_first(pages, {})] == ["c", "new", "b", "a"]
    assert [p.name for p in longest_first(pages, {"a": 10, "b": 9, "c": 1})] == ["a", "b", "new", "c"]
    assert [p.name for p in longest_first(pages, {"a": 50, "b": 1, "c": 2})] == ["a", "new", "c", "b"]


def test_what_a_page_computes_is_measured(tmp_path):
    """Waiting is none of it; a process that the page starts is."""
    work = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"
    cells = [
        "import subprocess, sys, time",
        "time.sleep(2)",
        work.format(0.5),
        f"subprocess.run([sys.executable, '-c', {work.format(1.0)!r}])",
    ]
    start = run(page(tmp_path, "empty", "pass"), timeout=120)
    done = run(page(tmp_path, "a", *cells), timeout=120)
    assert done.seconds >= 2 + 1.5
    # Two kernels differ by some tenths of a second in what they take to start.
    assert 1.5 - 0.4 < done.cpu_seconds - start.cpu_seconds < 2 + 1.5


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("def f():\n    return 1 / 0\n\nf()", ["ZeroDivisionError: division by zero", "return 1 / 0", "f()"]),
        ("import os; os._exit(1)", ["Kernel died"]),
        ("import time; time.sleep(60)", ["timed out", "time.sleep(60)"]),
    ],
    ids=["error", "death", "timeout"],
)
def test_a_failure_names_page_and_cell_and_shows_why(tmp_path, cell, said):
    done = run(page(tmp_path, "02-page", "pass", cell, "pass"), timeout=8)
    plain = re.sub(r"\x1b\[[\d;]*m", "", done.error)  # without its colours
    assert plain.startswith("02-page: code cell 2 of 3 failed\n")
    assert all(words in plain for words in said), plain


def test_an_interrupt_leaves_no_kernel_behind(tmp_path):
    """Ctrl-C reaches no kernel, which is in a session of its own."""
    script = f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from test_execution import page, run_all
        cell = "import os, pathlib, time; pathlib.Path(f'{{name}}.pid').write_text(str(os.getpid())); time.sleep(600)"
        pages = [page(Path.cwd(), name, cell.replace("{{name}}", name)) for name in "abc"]
        list(run_all(pages, at_once=2, timeout=600, times={{}}))
        """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", dedent(script)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while len(pids := [path.read_text() for path in tmp_path.glob("*.pid")]) < 2 or not all(pids):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=60)
            left = [pid for pid in map(int, pids) if psutil.pid_exists(pid)]
        finally:
            for pid in {process.pid, *map(int, pids)}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert "KeyboardInterrupt" in said
    assert not left
    assert len(list(tmp_path.glob("*.pid"))) == 2, "a third page began after the interrupt"


# In a build

CHAPTER = """\
---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
---
# Chapter {name}

{prose}

```{{code-cell}}
{code}
```
"""
RUNS = "import pathlib\nwith open('{name}.runs', 'a') as file: file.write('.')\n"

Build = Callable[..., tuple[ExtensionError | None, str, str]]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build a book of pages, given by their code: what stopped the build, its warnings, and what it told."""
    for name in (execution.PROFILE, *execution.THREADS):
        monkeypatch.setenv(
            name, os.environ.get(name, "")
        )  # the build sets them for the kernels; afterwards they are back
    monkeypatch.setenv(execution.PROFILE, "smoke")
    source = tmp_path / "book"
    source.mkdir()

    def build(prose: str = "Text.", **pages: str) -> tuple[ExtensionError | None, str, str]:
        for name, code in pages.items():
            text = CHAPTER.format(name=name, prose=prose, code=RUNS.format(name=name) + code)
            (source / f"{name}.md").write_text(text, "utf8")
        settings = {
            "extensions": ["myst_nb", "execution"],
            "source_suffix": {".md": "myst-nb"},  # Sphinx keeps what other builds of this process have set
            "nb_execution_mode": "cache",
            "root_doc": "a",
        }
        told, warnings, error = io.StringIO(), io.StringIO(), None
        with patch_docutils(), docutils_namespace():
            app = Sphinx(source, None, tmp_path / "html", tmp_path / "tree", "html", settings, told, warnings)
            try:
                app.build()
            except ExtensionError as caught:
                error = caught
        return error, warnings.getvalue(), told.getvalue()

    return build


def counts(folder: Path) -> dict[str, int]:
    return {path.stem: len(path.read_text()) for path in (folder / "book").glob("*.runs")}


def test_a_build_shows_what_pages_printed_and_runs_each_once(book: Build, tmp_path: Path) -> None:
    error, _, told = book(a="print('seen')", b="print('also ' + 'seen')")
    assert error is None
    assert "executing 2 pages" in told
    assert "also seen" in (tmp_path / "html" / "b.html").read_text("utf8")
    assert counts(tmp_path) == {"a": 1, "b": 1}

    error, _, told = book(prose="Another text.", a="print('seen')", b="print('new')")
    assert error is None
    assert "executing 1 pages" in told
    assert "Another text." in (tmp_path / "html" / "a.html").read_text("utf8")
    assert "<pre>seen" in "".join((tmp_path / "html" / "a.html").read_text("utf8").split("<span></span>"))
    assert counts(tmp_path) == {"a": 1, "b": 2}


def test_a_failing_page_fails_the_build_and_others_are_kept(book: Build, tmp_path: Path) -> None:
    error, warnings, _ = book(a="print('good')", b="print(undefined_name)")
    assert "1 of 2 pages could not be executed" in str(error)
    assert "b.md: WARNING: b: code cell 1 of 1 failed" in warnings
    assert "NameError" in warnings
    assert not (tmp_path / "html" / "a.html").exists()

    error, warnings, _ = book(b="print('mended')")
    assert error is None, "a failure is not remembered"
    assert counts(tmp_path) == {"a": 1, "b": 2}


def test_a_page_computes_with_one_thread(book: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in execution.THREADS:
        monkeypatch.setenv(name, "2")
    book(a="import torch\nprint('threads:', torch.get_num_threads())")
    html = (tmp_path / "html" / "a.html").read_text("utf8")
    assert "threads: 1" in html
    assert "on one CPU core, profile smoke." in html


def test_a_page_in_the_gpu_profile_has_all_cores(book: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(execution.PROFILE, "gpu")
    for name in execution.THREADS:
        monkeypatch.delenv(name)
    _, _, told = book(a="import os\nprint('threads:', os.environ.get('OMP_NUM_THREADS'))")
    assert "1 at a time" in told
    assert "threads: None" in (tmp_path / "html" / "a.html").read_text("utf8")


# Twice


def outputs(*bundles: dict[str, str]) -> nbformat.NotebookNode:
    return new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", data=bundle) for bundle in bundles])


def test_two_builds_may_differ_in_times_and_in_nothing_else(tmp_path):
    a = outputs({"text/plain": "trained in 12.5 s, 3 steps", "image/svg+xml": "<dc:date>now</dc:date><path/>"})
    b = outputs({"text/plain": "trained in 8 s, 3 steps", "image/svg+xml": "<dc:date>then</dc:date><path/>"})
    c = outputs({"text/plain": "trained in 8 s, 4 steps", "image/svg+xml": "<path/>"})
    assert list(twice.differences(new_notebook(cells=[a]), new_notebook(cells=[b]))) == []
    assert "code cell 1" in next(twice.differences(new_notebook(cells=[a]), new_notebook(cells=[c])))


def test_a_page_that_draws_its_own_dice_is_found(tmp_path):
    cells = ["print('always'); 1", "import os\nprint(os.urandom(8))"]
    first, second = page(tmp_path, "a", *cells), page(tmp_path, "a", *cells)
    assert [run(first, 120).error, run(second, 120).error] == ["", ""]
    (found,) = twice.differences(first.notebook, second.notebook)
    assert found.startswith("code cell 2 does not show the same twice:\nimport os")
