"""`python -m diffusion_book.cli`, and so `accelerate launch -m diffusion_book.cli train …`."""

from diffusion_book.cli.main import app

app(prog_name="diffusion-book")
