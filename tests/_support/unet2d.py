"""A small `UNet2DModel` of diffusers by its options, and the same times as both sides count them."""

import torch

K4 = torch.tensor([0, 249, 699, 999])  # their timesteps
T4 = K4 + 1  # our times

TINY = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
SCALE_SHIFT = TINY | {"resnet_time_scale_shift": "scale_shift"}

# A small `UNet2DConditionModel` with Stable Diffusion 1's choices: eight heads of 2 to 8 features, none at the bottom.
SD1 = {
    "sample_size": 16,
    "block_out_channels": (16, 32, 64, 64),
    "norm_num_groups": 8,
    "cross_attention_dim": 12,
    "attention_head_dim": 8,
}
# And with Stable Diffusion 2's: heads of 8 features, linear layers around its transformers.
SD2 = SD1 | {"attention_head_dim": (2, 4, 8, 8), "use_linear_projection": True, "upcast_attention": True}
