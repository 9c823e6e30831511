"""Files that are whole or as they were: a full disk, or a kill, costs what was being written and nothing else."""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
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
        raise OSError(f"there is no home directory; set {variable} to a folder that can be written to") from error
    return home.joinpath(".cache", "diffusion-book", *below)


@contextlib.contextmanager
def whole(path: Path, flush: bool = True) -> Iterator[Path]:
    """A path of the same ending to write to, which takes the place of `path` when the block ends.

    Each writer has its own, so that of several the last one's file stands, whole. A link is followed. A file that is
    there keeps its permissions.

    Args:
        flush: to the disk first, so that a power cut costs no more than a kill does; a thousand files take seconds.

    Raises:
        OSError: the disk is full, the folder read-only, or whatever else the block meets; `path` is as it was before,
            and nothing lies beside it. What the system said is the cause.
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f"{UNFINISHED}{secrets.token_hex(8)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        if flush:
            with unfinished.open("r+b") as file:
                os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):  # of a new file they are what the system gives
            shutil.copymode(target, unfinished)
        unfinished.replace(target)
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
    """Have the file system write down a folder's names, too; a no-op where folders cannot be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
