"""A disk that is full, as a test can have it. It lies here because `test_trainer` is a program of its own as well."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def disk_with_room_for(size: int) -> Iterator[None]:
    """Files that grow beyond this raise an OSError in the middle of a write, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
