"""Memory that runs out: what was too large for it, and what to take instead."""

import contextlib
from collections.abc import Iterator


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how Python, numpy or torch says it, on the CPU or on a GPU."""
    said = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")  # the last by cuBLAS, for its own room
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


@contextlib.contextmanager
def room_for(what: str, advice: str) -> Iterator[None]:
    """Where memory may run out for this one thing: a ValueError then says which, and what helps.

    Raises:
        ValueError: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"there is not enough memory for {what} ({reason}); {advice}") from error
