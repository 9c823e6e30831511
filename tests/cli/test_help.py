"""The help: that it starts at once, says everything, and that the book prints it as it is."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from diffusion_book.cli import app


def commands(group=None, path=()):
    """Every command by the words that call it, groups included."""
    group = group or get_command(app)
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands())


def help_of(path):
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "100"}, prog_name="diffusion-book")
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_says_what_it_does_and_names_every_option(path):
    text = help_of(path)
    assert COMMANDS[path].help
    for option in COMMANDS[path].params:
        if option.param_type_name == "argument":
            assert option.help, option.name
            continue
        assert all(name in text for name in option.opts)
        assert option.help, option.name
        assert re.search(rf"{re.escape(option.opts[-1])}\b.*\S", text)


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if hasattr(command, "commands")], ids=str)
def test_a_group_lists_its_commands(path):
    text = help_of(path)
    assert all(re.search(rf"^  {name}\b +\S", text, re.MULTILINE) for name in COMMANDS[path].commands)


def test_the_help_does_not_wait_for_torch():
    code = (
        "import sys; from diffusion_book.cli import app\n"
        "try: app(['train', '--help'])\n"
        "finally: print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False False"


def test_the_command_of_the_package_is_this_one():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["scripts"]
    module, _, name = scripts["diffusion-book"].partition(":")
    assert getattr(importlib.import_module(module), name) is app
    environment = {**os.environ, "COLUMNS": "100"}
    words = [sys.executable, "-m", "diffusion_book.cli"]
    found = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout == f"diffusion-book {version('diffusion-book')}\n"
    wrong = subprocess.run([*words, "sample", "-m", "nowhere"], capture_output=True, text=True, env=environment)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: there is no model 'nowhere'")
    assert wrong.stderr.count("\n") == 1


def test_a_misspelt_option_is_told_the_nearest():
    result = CliRunner().invoke(app, ["train", "--stpes", "3"])
    assert result.exit_code == 2
    assert "--steps" in result.stderr


ROOT = Path(__file__).parents[2]
PAGE = ROOT / "book" / "api" / "cli.md"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_book_prints_the_help_as_it_is(path):
    """Change the page where this fails: the block is what `COLUMNS=100 diffusion-book … --help` prints."""
    assert f"```text\n{help_of(path)}```" in PAGE.read_text("utf8")


README = re.findall(r"^diffusion-book (.*)$", (ROOT / "README.md").read_text("utf8"), re.MULTILINE)


@pytest.mark.parametrize("line", README)
def test_what_the_readme_says_is_understood(line):
    """Parsed, with all that can be checked before anything runs, and not run."""
    name, *words = line.split()
    context = COMMANDS[(name,)].make_context(name, words)
    assert all(context.params[key] is not None for key in ("data",) if name == "train")
