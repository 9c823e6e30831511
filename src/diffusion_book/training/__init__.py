"""Training: a plain loop, the moving average of weights, and runs that live in a folder and survive a crash."""

from diffusion_book.training.checkpoint import CheckpointError
from diffusion_book.training.config import RunConfig
from diffusion_book.training.ema import EMA
from diffusion_book.training.loop import TrainConfig, TrainResult, train
from diffusion_book.training.objective import Classification, Denoising, Objective
from diffusion_book.training.trainer import Trainer

__all__ = [
    "EMA",
    "CheckpointError",
    "Classification",
    "Denoising",
    "Objective",
    "RunConfig",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "train",
]
