"""Data: two-dimensional toys that know their own density, and images scaled to [−1, 1]."""

from diffusion_book.data.examples import Examples, Source
from diffusion_book.data.icons import write_icons
from diffusion_book.data.images import DATASETS, Images, images_sha256, load
from diffusion_book.data.latents import Latents, encoded
from diffusion_book.data.report import FolderReport, FolderSplit, check, clean, split_folder
from diffusion_book.data.scenes import Scenes
from diffusion_book.data.sets import SetCard, describe
from diffusion_book.data.splits import duplicates, nearest, split
from diffusion_book.data.toys import (
    GaussianMixture,
    checkerboard,
    grid_of_gaussians,
    ring_of_gaussians,
    two_moons,
)
from diffusion_book.data.vocabulary import Vocabulary

__all__ = [
    "DATASETS",
    "Examples",
    "FolderReport",
    "FolderSplit",
    "GaussianMixture",
    "Images",
    "Latents",
    "Scenes",
    "SetCard",
    "Source",
    "Vocabulary",
    "check",
    "checkerboard",
    "clean",
    "describe",
    "duplicates",
    "encoded",
    "grid_of_gaussians",
    "images_sha256",
    "load",
    "nearest",
    "ring_of_gaussians",
    "split",
    "split_folder",
    "two_moons",
    "write_icons",
]
