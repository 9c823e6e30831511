"""A run as the command line starts it: with previews, and a word on how to go on if it is stopped."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusion_book.training import RunConfig, Trainer


def run(config: "RunConfig", folder: Path, resume: bool) -> "Trainer":
    """Train to the last step.

    Raises:
        KeyboardInterrupt: the person did; the message says how to go on.
    """
    from diffusion_book.training import Trainer, checkpoint

    trainer = Trainer(config, folder)
    try:
        trainer.run(resume)
    except KeyboardInterrupt:
        last = checkpoint.latest(folder / "checkpoints")
        if last is None:
            raise KeyboardInterrupt(f"stopped at step {trainer.step}, before the first checkpoint") from None
        raise KeyboardInterrupt(
            f"stopped at step {trainer.step}; the same command with --resume goes on from {last}"
        ) from None
    return trainer
