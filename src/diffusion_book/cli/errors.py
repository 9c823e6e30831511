"""What went wrong, in one line, where a person can mend it; a traceback where we must."""

import os
import traceback
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from diffusion_book._memory import is_out_of_memory


class Commands(TyperGroup):
    """A group of commands whose foreseen errors end in one line on stderr and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _one_line
                return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            message = explain(error)
            if message is None or os.environ.get("DIFFUSION_BOOK_TRACEBACK"):
                raise
            traceback.clear_frames(error.__traceback__)  # a progress bar ends its line when it is let go
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(1) from error


def _one_line(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"warning: {message}", err=True)


def explain(error: BaseException) -> str | None:
    """The one line that an error is worth, or None for one that is a mistake of ours."""
    if isinstance(error, KeyboardInterrupt):
        # A command that keeps its work, such as `train`, says where.
        return str(error) or "interrupted"
    if isinstance(error, typer.Exit | typer.Abort) or type(error).__module__.startswith("typer"):
        return None  # typer's own: it prints them itself
    if isinstance(error, BrokenPipeError):
        return None  # whoever read along, such as `head`, has read enough: typer ends quietly
    if is_out_of_memory(error):
        return f"out of memory ({_first_line(error)}); take a smaller --batch-size, or fewer pictures at once"
    if isinstance(error, ImportError):
        return f"{_first_line(error)}; install what is missing"
    from diffusion_book.training.checkpoint import CheckpointError  # by now the command has imported torch anyway

    if isinstance(error, ValueError | FloatingPointError | OSError | CheckpointError):
        return " ".join(str(error).split())
    return None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
