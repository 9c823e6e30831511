"""Denoising diffusion models from scratch: the library that the book builds, chapter by chapter."""

from diffusion_book import data, denoise, editing, guidance, losses, nn, process, samplers, schedules, training, zoo

__version__ = "0.1.0"
__all__ = [
    "data",
    "denoise",
    "editing",
    "guidance",
    "losses",
    "nn",
    "process",
    "samplers",
    "schedules",
    "training",
    "zoo",
]
