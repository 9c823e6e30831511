"""Files that are whole or as they were: a full disk, or a kill, costs what was being written and nothing else."""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished-"


def expanded(path: Path | str) -> Path:
    """The path, with a `~` that no shell has seen (`--out=~/x`, `folder:~/x`) as the home directory."""
    return Path(os.path.expanduser(path))


def cache_folder(variable: str, *below: str) -> Path:
    """The folder that an environment variable names, or else one below ~/.cache/diffusion-book.

    Raises:
        OSError: it names none, and there is no home directory.
    """
    named = os.environ.get(variable)
    if named:
        return expanded(named)
    try:
        home = Path.home()
    except RuntimeError as error:
        raise OSError(f"there is no home directory, and ${variable} names none") from error
    return home.joinpath(".cache", "diffusion-book", *below)


def once(pairs: Iterable[Sequence[Any]]) -> dict[Any, Any]:
    """A mapping of these names and values, of which no name may be there twice: which one was meant?"""
    values: dict[Any, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name} stands there twice, as {values[name]!r} and as {value!r}; take one out")
        values[name] = value
    return values


@contextlib.contextmanager
def whole(path: Path, flush: bool = True) -> Iterator[Path]:
    """A path of the same ending to write to, which takes the place of `path` when the block ends.

    Each writer has its own, so that of several the last one's file stands, whole. A link is followed, and `~` is the
    home. A file that is there keeps its permissions, where the file system has them.

    Args:
        flush: to the disk first, so that a power cut costs no more than a kill does; a thousand files take seconds.

    Raises:
        OSError: the disk is full, the folder read-only, or whatever else the block meets; `path` is as it was before,
            and nothing lies beside it. What the system said is the cause.
    """
    target = Path(os.path.realpath(expanded(path)))
    unfinished = target.with_name(f"{UNFINISHED}{secrets.token_hex(8)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        if flush:
            with unfinished.open("r+b") as file:
                to_disk(file.fileno())
        with contextlib.suppress(OSError):  # a new file has what the system gives, and so have all on many sticks
            shutil.copymode(target, unfinished)
        _take_place(unfinished, target)
        if flush:
            sync(target.parent)
    except OSError as error:
        advice = "; make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise OSError(f"{path} could not be written ({error}){advice}") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def write_whole(path: Path, content: dict[str, Any] | bytes) -> None:
    """Write a small file, such as a configuration as JSON, so that it is there whole or as it was before."""
    with whole(path) as unfinished:
        unfinished.write_bytes(content if isinstance(content, bytes) else json.dumps(content, indent=1).encode())


def sync(folder: Path) -> None:
    """Have the file system write down a folder's names, too; a no-op where it cannot, or folders cannot be opened."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # of a folder that may be written to and not listed
        return
    try:
        to_disk(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Where no other process is in the same folder; the system forgets one that was killed, and no file is left.

    Where folders cannot be locked (Windows, some network disks) nothing is asked.

    Raises:
        BlockingIOError: another process is there.
    """
    descriptor = _lock(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path) -> int | None:
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # this disk knows no locks
        pass
    return descriptor


def to_disk(descriptor: int) -> None:
    """`fsync`, but where there is no such thing nothing has failed: a folder on a Windows share, for one."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def _take_place(unfinished: Path, target: Path) -> None:
    """Rename, at once. A file that is mounted, as into a container, cannot be renamed over: it is copied into."""
    try:
        unfinished.replace(target)
    except OSError as error:
        if error.errno != errno.EBUSY or not target.is_file():
            raise
        shutil.copyfile(unfinished, target)
