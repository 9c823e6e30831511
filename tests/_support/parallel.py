"""Tests side by side, with pytest-xdist: what shares something dear stays together, and what is slow begins.

At the end it says what the parts of the tests took.
"""

from collections import Counter

import joblib
import pytest

PARTS = {  # by what the names of their tests begin with; the first that fits
    "tests/equations/": "equations",
    "tests/book/test_notebooks.py": "notebooks",
    "tests/book/test_site.py": "browser",
    "tests/book/test_widgets.py": "browser",
    "tests/book/": "book",
    "": "unit",
}


def pytest_xdist_auto_num_workers() -> int:
    """The cores that this process may use, in a container too."""
    return joblib.cpu_count()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the tests that stay together, and put what is slow first, so that no core waits for it at the end."""
    for item in items:
        if group := shares(item):
            item.add_marker(pytest.mark.xdist_group(group))
    slow = {together(item) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: together(item) not in slow)


def shares(item: pytest.Item) -> str | None:
    """The tests of a page of the site, which is opened once, or of a module that has a fixture, which is made once."""
    if "visits" in item.fixturenames:
        return f"{item.module.__name__}:{item.callspec.params['page_name']}"
    fixtures = [made[-1] for made in item._fixtureinfo.name2fixturedefs.values()]
    return item.module.__name__ if any(fixture.scope == "module" for fixture in fixtures) else None


def together(item: pytest.Item) -> str:
    group = item.get_closest_marker("xdist_group")
    return group.args[0] if group else item.nodeid


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[part(report.nodeid)] += report.duration
    told = ", ".join(f"{name} {total:.0f}" for name, total in seconds.most_common())
    terminalreporter.write_line(f"seconds of tests, all workers together: {told}")


def part(nodeid: str) -> str:
    return next(name for start, name in PARTS.items() if nodeid.startswith(start))
