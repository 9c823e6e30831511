"""diffusers imports torchvision, which beside a CPU build of torch has to be mended first."""

import diffusion_book.data._torchvision  # noqa: F401
