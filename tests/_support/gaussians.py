"""Data whose best denoiser and least losses have closed forms."""

import torch

from diffusion_book.data import GaussianMixture


def gaussian(std: float, dim: int = 2) -> GaussianMixture:
    eye = torch.eye(dim, dtype=torch.float64)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, dim).double(), std**2 * eye[None])
