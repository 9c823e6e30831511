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
from PIL import Image
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


# The terminal, and what is behind it ---------------------------------------------------------------------------


def shell(*words, **environment):
    """A command line of its own process: what it printed, as bytes."""
    command = [sys.executable, "-m", "diffusion_book.cli", *words]
    return subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-8"])
def test_a_terminal_of_another_alphabet_gets_all_that_it_can_show(encoding):
    """σ and ≤ are in none but the last, × and ± in all."""
    for words in (("sample", "--help"), ("evaluate", "--help"), ("zoo", "show", "mnist-unet"), ("data", "list")):
        found = shell(*words, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        assert (found.returncode, found.stderr) == (0, b""), words
        expected = shell(*words, PYTHONIOENCODING="utf-8").stdout.decode()
        assert found.stdout.decode(encoding) == expected.encode(encoding, "backslashreplace").decode(encoding)


def test_a_picture_that_is_written_is_no_failure_in_another_alphabet(tmp_path):
    """The last line names the σ between which the card found guidance best."""
    words = ("sample", "-m", "mnist-unet", "--class", "7", "-n", "1", "--steps", "1", "-o", str(tmp_path / "a.png"))
    found = shell(*words, PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert (found.returncode, found.stderr) == (0, b"")
    assert b"\\u03c3" in found.stdout
    assert (tmp_path / "a.png").is_file()


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
@pytest.mark.parametrize("words", [("data", "list"), ("zoo", "show", "mnist-unet"), ("sample", "--help")])
def test_a_reader_who_has_read_enough_is_no_error(words):
    """As `head -1` is; nothing but the exit code says so."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "diffusion_book.cli", *words]
    found = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (found.returncode, found.stderr) == (1, b"")


def test_home_is_known_wherever_a_path_begins(run, tmp_path, monkeypatch):
    """A shell leaves `~` as it is in all of these but --out ~/b.png."""
    home = tmp_path / "home"
    (home / "set").mkdir(parents=True)
    (home / "run.toml").write_text("steps = 1\nbatch_size = 2\nT = 5\n[network]\nkind = 'unet'\nchannels = 16\n")
    Image.new("RGB", (8, 8)).save(home / "set" / "x.png")
    monkeypatch.setenv("HOME", str(home))
    run("data", "show", "folder:~/set", "--size", 8, "--out=~/a.png")
    run("data", "show", "folder:~/set", "--size", 8, "--out", "~/b.png")
    run("data", "show", "folder:~/set", "--size", 8, "-o~/c.png")
    words = ["--set", "preview_every=0", "--set", "data=folder:~/set", "--size", 8, "--precision", "fp32"]
    run("train", "--config=~/run.toml", *words, "--out=~/run")
    run("train", "--resume", "--out=~/run")
    run("sample", "--model=~/run", "-n", 1, "--steps", 1, "--out=~/deep/d.npz")
    run("export", "--model=~/run", "--out=~/e.safetensors", "--format", "safetensors")
    run("export", "--model=~/run", "--out=~/g")
    run("sample", "--model=~/e.safetensors", "-n", 1, "--steps", 1, "--out=~/f.npy")
    found = {path.name for path in home.iterdir()}
    assert found == {
        "a.png",
        "b.png",
        "c.png",
        "deep",
        "e.json",
        "e.safetensors",
        "f.npy",
        "g",
        "run",
        "run.toml",
        "set",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
