"""Run pages again and compare: `python book/_ext/twice.py 03 10`, or all pages where none is named.

The cache holds what the cells of each page printed and drew when the site was built. Run a second time, they must
print and draw the same, but for the times that they took.
"""

import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from execution import ROOT, cache_folder, latest, run_here
from jupyter_cache import get_cache
from nbformat import NotebookNode
from side_by_side import Page

TIME = re.compile(r"\d+(?:\.\d+)? ?(?:µs|ms|s|min)\b")
DATE = re.compile(r"<dc:date>.*?</dc:date>")  # matplotlib's, in a part of a picture that no page shows


def seen(cell: NotebookNode) -> list[str]:
    """What a reader sees below a cell: its printed text in one piece, then each picture or value."""
    printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
    shown = [json.dumps(output.data, sort_keys=True, ensure_ascii=False) for output in cell.outputs if "data" in output]
    return [TIME.sub("…", DATE.sub("", text)) for text in (printed, *shown)]


def differences(first: NotebookNode, second: NotebookNode) -> Iterator[str]:
    """The cells that do not show the same, each by its number and its code."""
    pairs = ((a, b) for a, b in zip(first.cells, second.cells, strict=True) if a.cell_type == "code")
    for number, (a, b) in enumerate(pairs, 1):
        if seen(a) != seen(b):
            yield f"code cell {number} does not show the same twice:\n{a.source}"


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.outputs = []  # the cache holds code cells only
    return notebook


def main(wanted: list[str]) -> int:
    records = {name: record for name, record in latest(ROOT).items() if not wanted or name.startswith(tuple(wanted))}
    if not records:
        raise SystemExit(f"the cache holds no page of {wanted or 'the book'}: run `make book` first")
    cache = get_cache(cache_folder(ROOT))
    first = {name: cache.get_cache_bundle(record.pk).nb for name, record in records.items()}
    times = {name: record.data["cpu_seconds"] for name, record in records.items()}
    pages = [Page(name, Path(records[name].uri), without_outputs(first[name])) for name in first]
    same = True
    for run in run_here(pages, timeout=600, times=times):
        found = [run.error] if run.error else list(differences(first[run.page.name], run.page.notebook))
        print(f"{run.page.name}: {'the same' if not found else 'NOT the same'}", *found, sep="\n", flush=True)
        same &= not found
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
