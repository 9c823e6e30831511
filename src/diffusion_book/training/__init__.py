"""Training: a plain loop, and the moving average of weights that samples better than the weights themselves."""

from diffusion_book.training.ema import EMA
from diffusion_book.training.loop import TrainConfig, TrainResult, train

__all__ = ["EMA", "TrainConfig", "TrainResult", "train"]
