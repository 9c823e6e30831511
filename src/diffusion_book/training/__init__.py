"""Training: a plain loop, the moving average of weights, and runs that live in a folder and survive a crash."""

from diffusion_book.training.checkpoint import CheckpointError
from diffusion_book.training.config import RunConfig
from diffusion_book.training.ema import EMA
from diffusion_book.training.loop import TrainConfig, TrainResult, train
from diffusion_book.training.objectives.autoencoding import Autoencoding, AutoencodingConfig
from diffusion_book.training.objectives.classification import Classification
from diffusion_book.training.objectives.common import Objective
from diffusion_book.training.objectives.contrastive import Contrastive
from diffusion_book.training.objectives.denoising import Denoising, DenoisingConfig
from diffusion_book.training.objectives.noisy_classification import NoisyClassification
from diffusion_book.training.trainer import Trainer

__all__ = [
    "EMA",
    "Autoencoding",
    "AutoencodingConfig",
    "CheckpointError",
    "Classification",
    "Contrastive",
    "Denoising",
    "DenoisingConfig",
    "NoisyClassification",
    "Objective",
    "RunConfig",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "train",
]
