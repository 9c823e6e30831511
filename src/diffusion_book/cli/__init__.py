"""The command line `diffusion-book`: train, sample and measure without writing Python. Chapters 10 to 12.

One file a command. Each imports what it computes with only when it runs, so that `--help` answers at once; and what a
person can mend, from a typing error to a full disk, is one line that says how.
"""

from diffusion_book.cli.main import app

__all__ = ["app"]
