"""The loop over a table of options, on a class that no library has."""

import itertools
import math
from types import SimpleNamespace

import pytest

from diffusion_book.interop.diffusers.options import (
    ANYTHING,
    COUNT,
    COUNT_OR_COUNTS,
    COUNT_OR_NONE,
    COUNTS,
    FLAG,
    NAMES,
    NEGATED,
    NUMBER_OR_NONE,
    POSITIVE,
    SHARE,
    Option,
    Options,
    among,
)


def rules(o):
    yield "pages", o.pages % o.sheets == 0, f"a multiple of sheets = {o.sheets}"
    yield "pages", o.pages // o.sheets <= o.thickest, f"at most {o.thickest} on a sheet"


# Our book counts leaves, the two sides of which are two pages of theirs.
BOOK = Options(
    "Book",
    {
        "title": Option(None),
        "sheets": Option(1, COUNT, "quires"),
        "pages": Option(4, COUNT),
        "soft": Option(True, NEGATED, "hard"),
        "paper": Option("wove", among({"wove": "plain", "laid": "ribbed", "ribbed": "ribbed"}), "paper"),
    },
    rules,
    lambda o: {"leaves": o.pages // 2},
    lambda c: [("leaves", c.leaves > 0, "an empty one has no pages")],
    lambda c: {"pages": 2 * c.leaves},
)


def test_what_is_written_is_read_as_it_was():
    for quires, leaves, hard, paper in itertools.product([1, 2], [2, 4], [True, False], ["plain", "ribbed"]):
        ours = {"quires": quires, "leaves": leaves, "hard": hard, "paper": paper}
        theirs = BOOK.write(SimpleNamespace(**ours))
        assert theirs == {
            "sheets": quires,
            "pages": 2 * leaves,
            "soft": not hard,
            "paper": "wove" if paper == "plain" else "laid",
        }
        assert BOOK.read(theirs, "a reader", thickest=8) == ours
    assert "title" not in theirs
    assert BOOK.defaults | theirs == {"title": None, **theirs}


def test_options_that_are_left_out_have_their_defaults_and_two_words_may_mean_the_same():
    found = {"paper": "ribbed", "title": "anything at all"}
    ours = {"quires": 1, "leaves": 2, "hard": False, "paper": "ribbed"}
    assert BOOK.read(found, "a reader", thickest=8) == ours
    assert found == {"paper": "ribbed", "title": "anything at all"}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"sheets": 0}, "sheets = 0 does not fit: a reader needs a positive integer"),
        ({"paper": ["laid"]}, r"paper = \['laid'\] does not fit: a reader needs 'wove' or 'laid' or 'ribbed'"),
        ({"sheets": 3}, "pages = 4 does not fit: a reader needs a multiple of sheets = 3"),
        ({"pages": 18}, "pages = 18 does not fit: a reader needs at most 8 on a sheet"),
        # A rule is asked when all are of their kinds, so it need not fear what it compares.
        ({"sheets": 3, "soft": "a bit"}, "soft = 'a bit' does not fit: a reader needs True or False"),
    ],
)
def test_the_first_that_does_not_fit_is_named_with_who_cannot_read_it(found, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        BOOK.read(found, "a reader", thickest=8)


def test_what_ours_has_and_theirs_has_not_is_refused():
    with pytest.raises(ValueError, match=r"^leaves = 0 cannot be written as a Book: an empty one has no pages$"):
        BOOK.write(SimpleNamespace(quires=1, leaves=0, hard=True, paper="plain"))


def test_an_option_that_no_table_knows_is_named():
    BOOK.check_known({"pages": 8, "_class_name": "Book", "_version": 3})
    with pytest.raises(ValueError, match=r"^colour = 'blue': this is no option of a Book that is known here$"):
        BOOK.check_known({"pages": 8, "colour": "blue"})


NEVER = [math.inf, -math.inf, math.nan, "1", "", [], {}, (), [None], {"a": 1}]


@pytest.mark.parametrize(
    ("kind", "fit", "others"),
    [
        (COUNT, [1, 7], [0, -1, 1.0, True, None, *NEVER]),
        (COUNT_OR_NONE, [1, 7, None], [0, -1, 1.0, True, *NEVER]),
        (COUNT_OR_COUNTS, [7, [1], (3, 2)], [0, -1, True, None, [0], [1, True], [1, 2.0], {1: 2}, *NEVER]),
        (COUNTS, [[1], (3, 2)], [0, 1, True, None, [0], [1, True], [1, 2.0], [1, None], {1: 2}, *NEVER]),
        (FLAG, [True, False], [0, 1, None, *NEVER]),
        (NEGATED, [True, False], [0, 1, None, *NEVER]),
        (NAMES, [["a"], ("a", "b"), [""]], [1, "ab", None, ["a", 1], *NEVER]),
        (NUMBER_OR_NONE, [None, 0, -1, 0.5], [True, *NEVER]),
        (POSITIVE, [1, 0.5, 1e-9], [0, -1, True, None, *NEVER]),
        (SHARE, [0, 0.0, 0.5], [1, -0.1, True, False, None, *NEVER]),
        (among([0, "a", None]), [0, "a", None], [1, "b", *NEVER]),
        (among({"a": "b"}), ["a"], ["b", None, *NEVER]),
        (ANYTHING, [None, 0, *NEVER], []),
    ],
)
def test_a_kind_is_what_it_says(kind, fit, others):
    assert all(kind.fits(value) for value in fit)
    assert [value for value in others if kind.fits(value)] == []
