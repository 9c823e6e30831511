"""What all tests share: one thread, no window, the same random numbers in every run."""

import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
torch.set_num_threads(1)
settings.register_profile("book", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("book")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20_240_607)
