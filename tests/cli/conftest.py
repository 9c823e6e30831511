"""What the tests of the command line share: a way to run it in this process, and small things for it to work on."""

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from diffusion_book.cli import app

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """Run a command in an empty folder; its errors must be those that it is told to expect, and never a traceback."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, fails: bool = False) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code != 0) == fails, result.output
        if fails:
            assert "Traceback" not in result.output
        return result

    return run
