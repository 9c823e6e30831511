"""What the pages use, checked against what reads it."""

import base64
import io
import json
import re
import subprocess
import sys

import pytest
import torch
from myst_nb.core.variables import format_plain_text
from myst_nb.ext.glue import extract_glue_data_cell
from nbformat.v4 import new_code_cell, new_output
from PIL import Image

from diffusion_book import page
from diffusion_book.data.images import to_uint8


@pytest.mark.parametrize("name", page.PROFILES)
def test_the_environment_decides_the_profile(name, monkeypatch):
    monkeypatch.setenv("DIFFUSION_BOOK_PROFILE", name)
    assert page.profile() == name
    assert page.pick(smoke="smoke", cpu="cpu", gpu="gpu") == name


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("has_gpu", [True, False])
def test_without_one_the_machine_decides(has_gpu, value, monkeypatch):
    if value is None:
        monkeypatch.delenv("DIFFUSION_BOOK_PROFILE", raising=False)
    else:
        monkeypatch.setenv("DIFFUSION_BOOK_PROFILE", value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert page.profile() == ("gpu" if has_gpu else "cpu")
    assert page.device() == torch.device("cuda" if has_gpu else "cpu")


def test_a_gpu_is_left_alone_in_the_other_profiles(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("DIFFUSION_BOOK_PROFILE", "cpu")
    assert page.device() == torch.device("cpu")


def test_the_gpu_profile_runs_without_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("DIFFUSION_BOOK_PROFILE", "gpu")
    assert page.device() == torch.device("cpu")


def test_an_unknown_profile_is_refused_with_the_list_of_known_ones(monkeypatch):
    monkeypatch.setenv("DIFFUSION_BOOK_PROFILE", "fast")
    with pytest.raises(ValueError, match="DIFFUSION_BOOK_PROFILE must be one of smoke, cpu, gpu, got 'fast'"):
        page.pick(smoke=1, cpu=2, gpu=3)


@pytest.mark.parametrize("value", ["4.036e-05", "2.50", "1,000", "α", 42, 0.5])
def test_the_site_reads_what_is_glued_and_a_notebook_shows_it(value, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: shown.append((raw, data, metadata)))
    page.glue("alpha-bar-T", value)
    ((raw, data, metadata),) = shown
    assert raw
    assert data["text/plain"] == f"alpha-bar-T: {value}", "what a notebook shows"
    cell = new_code_cell(outputs=[new_output("display_data", data=data, metadata=metadata)])
    ((key, output),) = extract_glue_data_cell(cell)
    assert key == "alpha-bar-T"
    assert format_plain_text(output["data"]["text/plain"], "") == str(value)  # what the role {glue:text} does
    assert cell.outputs == []


def test_widget_data_is_json_that_cannot_close_its_script(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data["text/html"]))
    value = {"x": [1, 2.5, None], "label": "</script><b>"}
    page.widget_data("forward", value)
    found = re.fullmatch(r'<script type="application/json" id="forward-data">(.*)</script>', shown[0])
    assert found is not None
    assert json.loads(found[1]) == value
    assert "<" not in found[1]
    with pytest.raises(ValueError, match="JSON"):
        page.widget_data("forward", [float("nan")])


def checks_three(answer):
    assert answer() == 3, "the answer must be 3"


def test_a_right_answer_is_told_so(capsys):
    page.attempt(checks_three, lambda: 3)
    assert capsys.readouterr().out == "✓ Correct: the check passes.\n"


def stub():
    raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: 4, "Not yet: AssertionError: the answer must be 3"),
        (stub, "Not yet: NotImplementedError"),
        (lambda: 1 / 0, "Not yet: ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong(answer, said, capsys):
    page.attempt(checks_three, answer)
    assert capsys.readouterr().out.startswith(said)


def test_the_books_own_answer_must_pass(capsys):
    with pytest.raises(AssertionError, match="must be 3"):
        page.attempt(checks_three, lambda: 4, must_pass=True)
    page.attempt(checks_three, lambda: 3, must_pass=True)
    assert "✓" in capsys.readouterr().out


PIXELS = torch.tensor([[[-1.0, 1.0]], [[0.2, 0.6]], [[-1.0, -1.0]]])  # [C, H, W] of three colours


@pytest.fixture
def records(tmp_path, monkeypatch):
    """A folder of records with one in it."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(PIXELS).movedim(0, -1).numpy()).save(buffer, "png")
    record = {
        "what": "A <thing>.", "command": "python book/recorded/thing.py", "seed": 3, "hardware": "a box",
        "seconds": 7380, "date": "2026-01-02", "commit": "0123456789", "numbers": {"loss": 0.5, "steps": [1, 2]},
        "pictures": {"thing": base64.b64encode(buffer.getvalue()).decode()}, "small": {},
    }  # fmt: skip
    (tmp_path / "thing.json").write_text(json.dumps(record))
    monkeypatch.setattr(page, "RECORDS", tmp_path)
    return tmp_path


def test_a_recorded_result_says_that_it_is_recorded(records, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    result = page.recorded("thing")
    assert result.numbers == {"loss": 0.5, "steps": [1, 2]}
    torch.testing.assert_close(result.pictures["thing"], PIXELS, atol=1 / 255, rtol=0)
    (said,) = shown
    assert said["text/plain"] == (
        "Recorded, not computed on this page: A <thing>. By `python book/recorded/thing.py` with seed 3, "
        "in 2 h 3 min on a box, 2026-01-02, commit 0123456."
    )
    assert "<thing>" not in said["text/html"]
    assert "<code>python book/recorded/thing.py</code>" in said["text/html"]


def test_a_record_that_is_not_there_or_not_whole_is_refused(records):
    with pytest.raises(ValueError, match="no recorded result 'other'; there are: thing"):
        page.recorded("other")
    fields = json.loads((records / "thing.json").read_text())
    del fields["commit"]
    (records / "thing.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"thing\.json lacks commit"):
        page.recorded("thing")


@pytest.mark.parametrize("options", [["-O"], []])
def test_where_asserts_are_left_out_nothing_is_called_right(options):
    """A check that cannot fail would call every answer correct."""
    code = (
        "from diffusion_book import page\n"
        "def check(x): assert x == 1\n"
        "page.attempt(check, 2)\n"
        "page.attempt(check, 1)\n"
        "page.attempt(check, 2, must_pass=True)"
    )
    found = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert found.returncode == 1
    if options:
        assert found.stdout.count("This check cannot run: Python was started with -O") == 2
        assert "RuntimeError: This check cannot run" in found.stderr
    assert ("Correct" in found.stdout) == (not options)
