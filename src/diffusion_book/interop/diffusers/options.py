"""A table of options: what a class of `diffusers` is told beside what ours is told, and one loop each way."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a value of theirs may be: the question, the words for it, and what ours calls each value if otherwise."""

    fits: Callable[[Any], bool]
    expected: str
    meanings: Mapping[Any, Any] | None = None


def among(values: Collection[Any], expected: str | None = None) -> Kind:
    """Only these values; a mapping also says what ours calls each."""
    known = tuple(values)  # what comes may be a list, of which a mapping cannot be asked
    meanings = values if isinstance(values, Mapping) else None
    return Kind(lambda value: value in known, expected or " or ".join(map(repr, known)), meanings)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(of, value))


ANYTHING = Kind(lambda value: True, "anything")
COUNT = Kind(_is_count, "a positive integer")
COUNT_OR_NONE = Kind(lambda value: value is None or _is_count(value), "None or a positive integer")
COUNT_OR_COUNTS = Kind(
    lambda value: _is_count(value) or _is_list(value, _is_count), "a positive integer, or a list of them"
)
COUNTS = Kind(lambda value: _is_list(value, _is_count), "a list of positive integers")
FLAG = Kind(lambda value: isinstance(value, bool), "True or False")
NEGATED = FLAG._replace(meanings={True: False, False: True})
NAMES = Kind(lambda value: _is_list(value, lambda name: isinstance(name, str)), "a list of names")
NUMBER_OR_NONE = Kind(lambda value: value is None or _is_number(value), "None or a number")
POSITIVE = Kind(lambda value: _is_number(value) and value > 0, "a positive number")
SHARE = Kind(lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)")


class Option(NamedTuple):
    """An option of theirs: what it is when left out, what we can read, and the option of ours that says the same."""

    default: Any
    kind: Kind = ANYTHING
    ours: str | None = None

    def read(self, value: Any) -> Any:
        """Theirs → ours."""
        return self.kind.meanings[value] if self.kind.meanings else value

    def write(self, value: Any) -> Any:
        """Ours → theirs."""
        meanings = self.kind.meanings
        return next(theirs for theirs in meanings if meanings[theirs] == value) if meanings else value


# Of an option: whether it can be what it is; and if not, what is expected, or why.
Said = Iterable[tuple[str, bool, str]]


@dataclass(frozen=True)
class Options:
    """All options of a class of theirs, and the loop each way.

    What one of theirs has in common with one of ours is a line of the table, what concerns several a function of all,
    which it is handed as attributes: theirs as o, ours as c.

    Attributes:
        theirs: name of the class.
        table: its options by name.
        rules: what theirs must be to each other to be read, when each by itself is of its kind.
        to_ours: ours that follow from several of theirs.
        refused: what ours must be to be written.
        to_theirs: theirs that follow from several of ours.
    """

    theirs: str
    table: Mapping[str, Option]
    rules: Callable[[Any], Said] = lambda o: ()
    to_ours: Callable[[Any], dict[str, Any]] = lambda o: {}
    refused: Callable[[Any], Said] = lambda c: ()
    to_theirs: Callable[[Any], dict[str, Any]] = lambda c: {}

    @property
    def defaults(self) -> dict[str, Any]:
        """Theirs when nothing is said."""
        return {name: option.default for name, option in self.table.items()}

    def check_known(self, found: Mapping[str, Any]) -> None:
        """A ValueError that names the first option which the table lacks."""
        for name, value in found.items():
            if name not in self.table and not name.startswith("_"):  # _class_name, _diffusers_version, _name_or_path
                raise ValueError(f"{name} = {value!r}: this is no option of a {self.theirs} that is known here")

    def read(self, found: Mapping[str, Any], reader: str, **besides: Any) -> dict[str, Any]:
        """Theirs → ours.

        Args:
            found: their configuration.
            reader: who cannot read the first option that does not fit, in the words of the ValueError.
            besides: what the functions ask and no configuration says.
        """
        o = SimpleNamespace(**self.defaults | dict(found) | besides)
        singly = ((name, kind.fits(getattr(o, name)), kind.expected) for name, (_, kind, _) in self.table.items())
        for name, fits, expected in itertools.chain(singly, self.rules(o)):
            if not fits:
                raise ValueError(f"{name} = {getattr(o, name)!r} does not fit: {reader} needs {expected}")
        same = {ours: option.read(getattr(o, name)) for name, option in self.table.items() if (ours := option.ours)}
        return same | self.to_ours(o)

    def write(self, c: Any) -> dict[str, Any]:
        """Ours → theirs, as far as ours says anything of them."""
        for name, fits, why in self.refused(c):
            if not fits:
                raise ValueError(f"{name} = {getattr(c, name)!r} cannot be written as a {self.theirs}: {why}")
        same = {name: option.write(getattr(c, option.ours)) for name, option in self.table.items() if option.ours}
        return same | self.to_theirs(c)
