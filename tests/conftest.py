"""What all tests share: one thread, no window, the same random numbers in every run; and how they run side by side."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # of torch, and of what tests start; as many tests run at a time as there are cores

import matplotlib
import pytest
import torch
from hypothesis import settings

from _support import parallel

matplotlib.use("Agg")
torch.set_num_threads(1)
settings.register_profile("book", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("book")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(parallel)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a number of a user whom nobody knows, without $HOME: how containers often run."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "DIFFUSION_BOOK_CACHE", "DIFFUSION_BOOK_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20_240_607)
