"""Networks to and from other libraries. What is another library's own is imported where it is used, and not before."""

from diffusion_book.interop.diffusers.autoencoder import autoencoder_from_diffusers, autoencoder_to_diffusers
from diffusion_book.interop.diffusers.clip import (
    clip_text_from_transformers,
    clip_text_to_transformers,
    clip_vision_from_transformers,
    clip_vision_to_transformers,
)
from diffusion_book.interop.diffusers.pipelines import load_pipeline, save_pipeline
from diffusion_book.interop.diffusers.text_unet import text_unet_from_diffusers, text_unet_to_diffusers
from diffusion_book.interop.diffusers.unet import unet_from_diffusers, unet_to_diffusers

__all__ = [
    "autoencoder_from_diffusers",
    "autoencoder_to_diffusers",
    "clip_text_from_transformers",
    "clip_text_to_transformers",
    "clip_vision_from_transformers",
    "clip_vision_to_transformers",
    "load_pipeline",
    "save_pipeline",
    "text_unet_from_diffusers",
    "text_unet_to_diffusers",
    "unet_from_diffusers",
    "unet_to_diffusers",
]
