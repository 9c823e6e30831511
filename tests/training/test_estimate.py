"""What a run will take, by a clock that the test winds."""

import re

import pytest
import torch

from diffusion_book.training.estimate import Estimate, spoken


def told(seconds: list[float], steps: int = 100) -> dict[int, str]:
    """What is told after which step, where each step ends at this second."""
    clock = {"now": 0.0}
    estimate = Estimate(torch.device("cpu"), steps, lambda: clock["now"])
    found = {}
    for step, clock["now"] in enumerate(seconds, start=1):
        if line := estimate.after(step):
            found[step] = line
    return found


def test_it_is_told_once_of_four_steps_without_the_first():
    found = told([60.0, 60.5, 61.0, 61.5, 62.0, 90.0, 99.0])
    assert list(found) == [5]
    assert found[5].startswith("about 48 seconds for 95 more steps, 0.5 s each; ")
    assert re.search(r"; [\d.]+ GB of memory$", found[5])


def test_fast_steps_are_timed_for_a_second():
    found = told([0.25 * i for i in range(20)], steps=10_000)
    assert list(found) == [5]
    found = told([0.01 * i for i in range(200)], steps=10_000)
    (step,) = found
    assert step in (101, 102)  # as the sum of hundredths falls
    assert "0.01 s each" in found[step]


def test_a_short_run_is_told_nothing():
    assert told([0.1 * i for i in range(8)], steps=8) == {}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 seconds"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (5400, "90 minutes"),
        (9000, "2.5 hours"),
        (2e5, "2.3 days"),
    ],
)
def test_seconds_are_spoken_as_a_person_would(seconds, words):
    assert spoken(seconds) == words
