"""What all tests share: one thread, no window, the same random numbers in every run."""

import sys
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "training"))  # for `full_disk`
matplotlib.use("Agg")
torch.set_num_threads(1)
settings.register_profile("book", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("book")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20_240_607)
