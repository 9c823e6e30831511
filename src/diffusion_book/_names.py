"""What to say to a name that nobody knows: the nearest of those that somebody does."""

import difflib
from collections.abc import Iterable


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """One line for an error: `unknown schedule 'cosin' (did you mean 'cosine'?); choose one of …`."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {name!r}{guess}; choose one of {', '.join(names)}"


def check_known(what: str, name: object, known: Iterable[str]) -> None:
    """A ValueError that says the nearest unless the name is a known one."""
    names = list(known)
    if name not in names:
        raise ValueError(unknown(what, name, names))
