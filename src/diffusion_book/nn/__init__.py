"""Networks. They know nothing of schedules: each maps (x, t, y) to a tensor of x's shape."""

from diffusion_book.nn.autoencoder import Autoencoder, AutoencoderConfig, LatentGaussian
from diffusion_book.nn.build import build, describe, weights_sha256
from diffusion_book.nn.classifier import Classifier, ClassifierConfig
from diffusion_book.nn.clip import Clip, ClipConfig
from diffusion_book.nn.codebook import Codebook, Quantised
from diffusion_book.nn.critic import PatchCritic
from diffusion_book.nn.dit import DIT_SIZES, DiT, DiTConfig
from diffusion_book.nn.embedding import timestep_embedding
from diffusion_book.nn.mlp import MLP
from diffusion_book.nn.text import TextConfig, TextEncoder
from diffusion_book.nn.text_unet import TextUNet, TextUNetConfig
from diffusion_book.nn.unet import UNet
from diffusion_book.nn.unet_config import SIZES, UNetConfig
from diffusion_book.nn.vit import ViT, ViTConfig

__all__ = [
    "DIT_SIZES",
    "MLP",
    "SIZES",
    "Autoencoder",
    "AutoencoderConfig",
    "Classifier",
    "ClassifierConfig",
    "Clip",
    "ClipConfig",
    "Codebook",
    "DiT",
    "DiTConfig",
    "LatentGaussian",
    "PatchCritic",
    "Quantised",
    "TextConfig",
    "TextEncoder",
    "TextUNet",
    "TextUNetConfig",
    "UNet",
    "UNetConfig",
    "ViT",
    "ViTConfig",
    "build",
    "describe",
    "timestep_embedding",
    "weights_sha256",
]
