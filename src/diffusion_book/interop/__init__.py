"""Networks to and from other libraries. What is another library's own is imported where it is used, and not before."""

from diffusion_book.interop.diffusers.pipelines import load_pipeline, save_pipeline
from diffusion_book.interop.diffusers.unet import unet_from_diffusers, unet_to_diffusers

__all__ = ["load_pipeline", "save_pipeline", "unet_from_diffusers", "unet_to_diffusers"]
