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
