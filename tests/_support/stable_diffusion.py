"""A Stable Diffusion in small, of `diffusers` and `transformers`, with random weights and a made-up vocabulary."""

from typing import Any

import torch

import diffusion_book._torchvision  # noqa: F401  (before diffusers, which imports torchvision)
from _support.networks import randomised
from _support.unet2d import SD1, SD2
from diffusion_book.data.text import BytePairs

PAIRS = BytePairs.learn(["a small red cat left of two apples", "a large blue dog, on yellow"], merges=40)
LENGTH = 12  # tokens of a text
VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}


def scheduler_options(version: int) -> dict[str, Any]:
    """What the scheduler of Stable Diffusion 1 or 2 is told."""
    return {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "steps_offset": 1,
        "prediction_type": "epsilon" if version == 1 else "v_prediction",
    }


def stable_diffusion(version: int = 1) -> Any:
    """A `StableDiffusionPipeline` of pictures of 32×32 and latents of 16×16."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    options = CLIPTextConfig(
        vocab_size=len(PAIRS.pieces),
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=LENGTH,
        hidden_act="quick_gelu" if version == 1 else "gelu",
        bos_token_id=PAIRS.begin,
        eos_token_id=PAIRS.end,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=randomised(AutoencoderKL(**VAE)),
        text_encoder=randomised(CLIPTextModel(options)),
        tokenizer=CLIPTokenizer(
            vocab={piece: number for number, piece in enumerate(PAIRS.pieces)},
            merges=list(PAIRS.merges),
            model_max_length=LENGTH,
            **({} if version == 1 else {"pad_token": "!"}),
        ),
        unet=randomised(UNet2DConditionModel(**(SD1 if version == 1 else SD2))),
        scheduler=DDIMScheduler(**scheduler_options(version), clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
