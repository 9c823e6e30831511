"""diffusers imports torchvision, which beside a CPU build of torch has to be mended first."""

import diffusion_book._torchvision  # noqa: F401
