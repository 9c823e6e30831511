"""Run pages side by side: each in a kernel of its own, the longest first, so that no core waits at the end.

jupyter-cache has a parallel executor too; it reads pages without their exercises, in no order, and says of a failure
only where to look for it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal
from nbformat import NotebookNode


@dataclass(frozen=True)
class Page:
    name: str  # as Sphinx names it: 03-reverse-process
    path: Path
    notebook: NotebookNode

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]


@dataclass(frozen=True)
class Run:
    """What became of a page, whose notebook now holds its outputs."""

    page: Page
    seconds: float  # by the clock
    cpu_seconds: float  # of its kernel and of what that started; a loaded machine does not lengthen them
    error: str = ""  # the cell that failed and its traceback


def run_all(pages: list[Page], at_once: int, timeout: int, times: Mapping[str, float]) -> Iterator[Run]:
    """Run the pages, and yield each as it ends.

    Args:
        at_once: how many kernels there are at a time.
        timeout: seconds that a cell may take.
        times: seconds that pages took before, by name.
    """
    kernels = Kernels()
    with ThreadPoolExecutor(at_once) as pool:
        runs = [pool.submit(run, page, timeout, kernels.watch) for page in longest_first(pages, times)]
        try:
            for done in as_completed(runs):
                yield done.result()
        except BaseException:  # Ctrl-C, say, which reaches no kernel
            pool.shutdown(wait=False, cancel_futures=True)
            kernels.kill()
            raise


def longest_first(pages: list[Page], times: Mapping[str, float]) -> list[Page]:
    """By the seconds that they took before; a page without is guessed from the length of its code."""

    def length(page: Page) -> int:
        return 1 + sum(len(cell.source) for cell in page.code)

    known = [page for page in pages if page.name in times]
    pace = sum(times[page.name] for page in known) / sum(map(length, known)) if known else 1.0
    return sorted(pages, key=lambda page: times.get(page.name, pace * length(page)), reverse=True)


def run(page: Page, timeout: int, watch: Callable[[psutil.Process], None] = lambda process: None) -> Run:
    """Run a page in its own folder, until its end or the first cell that fails."""
    reached, cpu_seconds = 0, 0.0

    def before(cell: NotebookNode, cell_index: int) -> None:
        nonlocal reached
        reached = cell_index
        watch(kernel())

    def after(cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        nonlocal cpu_seconds
        cpu_seconds = sum(kernel().cpu_times()[:4])  # user and system, its own and that of its children

    def kernel() -> psutil.Process:
        return psutil.Process(client.km.provisioner.pid)

    hooks = {"on_cell_execute": before, "on_cell_executed": after}
    # Without times in the cells, which the cache knows by all that they say.
    client = NotebookClient(page.notebook, timeout=timeout, record_timing=False, **hooks)
    start, error = time.perf_counter(), ""
    try:
        client.execute(cwd=str(page.path.parent))
    except (CellControlSignal, RuntimeError, psutil.Error) as failed:  # an exception, a timeout, a kernel that died
        number = 1 + sum(cell.cell_type == "code" for cell in page.notebook.cells[:reached])
        error = f"{page.name}: code cell {number} of {len(page.code)} failed\n{failed or type(failed).__name__}"
    return Run(page, time.perf_counter() - start, cpu_seconds, error)


class Kernels:
    """The processes that run, to be killed when this one is told to stop."""

    def __init__(self) -> None:
        self._seen: set[psutil.Process] = set()
        self._killed = threading.Event()

    def watch(self, process: psutil.Process) -> None:
        self._seen.add(process)
        if self._killed.is_set():  # it started while the others were killed
            process.kill()

    def kill(self) -> None:
        self._killed.set()
        for process in list(self._seen):
            if process.is_running():  # this process, and not another that has its number now
                process.kill()
