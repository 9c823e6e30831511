"""What the README prints for people to copy, run as it is printed."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_of_the_library_runs_and_learns(capsys):
    example = re.search(r"```python\n(.*?)```", README.read_text("utf8"), re.DOTALL)
    assert example is not None
    names: dict[str, object] = {}
    exec(example[1], names)
    samples, truth = map(float, re.findall(r": (-?[\d.]+) nats", capsys.readouterr().out))
    # Samples that miss the ring lose tens of nats; the network lost 0.2 when this was written.
    assert truth - samples < 0.5


def test_every_command_of_make_that_the_readme_names_exists():
    makefile = (README.parent / "Makefile").read_text("utf8")
    for command in re.findall(r"make (\w+)", README.read_text("utf8")):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command
