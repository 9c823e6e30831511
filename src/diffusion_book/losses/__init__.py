"""Training objectives: what to compare, how to weigh it, and at which times. Chapter 4 derives them.

Every loss is returned per example, [B]; take `.mean()` to train, or `by_time` to see where the trouble is.
A weight is a function of (schedule, t) that multiplies the squared error *in ε*; whatever a network predicts, the
same weight then means the same objective. EDM's loss is `simple_loss` with the prediction "F" and times from
`draw_sigma_times`; flow matching is `simple_loss` with "u" on `schedules.Flow` and `draw_logit_normal_times`.
"""

from diffusion_book.losses.bound import VLB, hybrid_loss, reconstruction, vlb, vlb_at
from diffusion_book.losses.contrastive import contrastive_loss
from diffusion_book.losses.denoising import LEAST_LOG_SNR, Weighting, edm, min_snr, p2, simple_loss, vdm, weight_of
from diffusion_book.losses.encoders import (
    adaptive_weight,
    critic_loss,
    feature_distance,
    fooling_loss,
    kl_to_normal,
)
from diffusion_book.losses.times import by_time, draw_logit_normal_times, draw_sigma_times, draw_times

__all__ = [
    "LEAST_LOG_SNR",
    "VLB",
    "Weighting",
    "adaptive_weight",
    "by_time",
    "contrastive_loss",
    "critic_loss",
    "draw_logit_normal_times",
    "draw_sigma_times",
    "draw_times",
    "edm",
    "feature_distance",
    "fooling_loss",
    "hybrid_loss",
    "kl_to_normal",
    "min_snr",
    "p2",
    "reconstruction",
    "simple_loss",
    "vdm",
    "vlb",
    "vlb_at",
    "weight_of",
]
