"""Autoencoders measured: on networks whose errors are known, and on scenes that are read before and after."""

import math

import pytest
import torch
from torch import nn

from diffusion_book.data import Images, Scenes
from diffusion_book.evaluation.of_model import autoencoder_metrics


class Off(nn.Module):
    """Finds pictures again, but for a number by which every pixel is off."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by), requires_grad=False)

    def forward(self, x):
        return x + self.by, None


def test_errors_are_those_that_are_known():
    x = 1.6 * torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.9
    found = autoencoder_metrics(Off(0.1), Images(x, {}, "made up"))
    assert found["mean absolute error"] == pytest.approx(0.1, rel=1e-5)
    assert found["PSNR"] == pytest.approx(20 * math.log10(2 / 0.1), rel=1e-5)
    assert found["standard error"] < 1e-6
    assert (found["N"], found["split"]) == (20, "made up")


def test_scenes_are_read_before_and_after():
    """Found again, they are read as before; on the ground of another colour, none is what its caption says."""
    scenes = Scenes("test", count=24)
    assert autoencoder_metrics(Off(0.0), scenes)["read rightly"] == {"decoded": 1.0, "originals": 1.0}
    assert autoencoder_metrics(Off(-1.5), scenes)["read rightly"]["decoded"] == 0.0
