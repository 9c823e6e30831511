"""The training loop of chapter 6: draw times and noise, predict, step, average."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_book._checks import at_least, one_of, positive
from diffusion_book.conditions import checked
from diffusion_book.data import Source
from diffusion_book.data.augment import flip_half
from diffusion_book.training.ema import EMA, check_decay
from diffusion_book.training.objectives import Learning, Objective, to_device
from diffusion_book.training.order import own_randomness
from diffusion_book.training.precision import Precision, autocast, resolve, step_scaled


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps: optimiser steps. batch_size: examples in each.
        learning_rate: its peak, after `warmup` steps; then a cosine takes it to zero at the last step.
        weight_decay: AdamW's.
        grad_clip: the gradient's norm is cut to this.
        ema_decay: of the averaged weights.
        flip: train on each picture or, half of the time, on its mirror image. For pictures whose mirror image could as
            well be one of them, and for nothing with letters, digits, or a left and a right that mean something: what
            is flipped in training comes out flipped.
        precision: "bf16" computes the network in bfloat16 and keeps weights in float32; "fp16" does so in float16,
            on CUDA alone, and scales the loss so that small gradients are not lost. "auto" is the first of "bf16" and
            "fp16" that the machine has units for (see `resolve`), or "fp32".
        seed: of every random number in the loop; the network's own initial weights are the caller's.
    """

    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    flip: bool = False
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, batch_size=self.batch_size)
        at_least(0, warmup=self.warmup)
        positive("learning_rate", self.learning_rate)
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}; 0 is none")
        if not self.grad_clip > 0:  # NaN is not, either
            raise ValueError(f"grad_clip must be positive, got {self.grad_clip}; use math.inf for no clipping")
        check_decay(self.ema_decay)
        one_of("precision", self.precision, get_args(Precision))


@dataclass(frozen=True)
class TrainResult:
    """What training leaves: the averaged network, to sample from; the last weights; and the loss at every step."""

    ema: nn.Module
    network: nn.Module
    losses: Tensor


def train(
    network: nn.Module,
    data: Source,
    objective: Objective,
    config: TrainConfig,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Minimise an objective, step by step (Ho et al. 2020, algorithm 1). Chapter 6 builds this loop line by line.

    Args:
        network: for `Denoising`, called as network(x_t, t, **conditions).
        data: hands out batches.
        objective: such as `Denoising(schedule)`.
        on_step: told of every step and its loss.

    Raises:
        ValueError: the data hands out no batches; no weight of the network can be trained; a label of the data is to
            say nothing; or precision is "fp16" without CUDA.
        FloatingPointError: the loss became NaN or infinite; the message names the step.
    """
    _check_data(data)
    _check_network(network)
    device = next(network.parameters()).device
    precision = resolve(config.precision, device)
    generator = torch.Generator().manual_seed(config.seed)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_up_then_cosine(step, config))
    ema = EMA(network, config.ema_decay)
    losses = torch.empty(config.steps)
    network.train()
    with own_randomness(device):
        torch.manual_seed(config.seed)  # of dropout
        for step in tqdm(range(config.steps), desc="training", mininterval=1):
            x0, conditions = data.batch(config.batch_size, generator)
            x0 = flip_half(x0, generator) if config.flip else x0
            batch = to_device(objective.draw(x0, checked(conditions), generator), device)
            with autocast(precision, device):
                loss = objective.loss(network, batch).mean()
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower learning_rate or use fp32")
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
            if step_scaled(optimiser, scaler):
                ema.update(network)
            if isinstance(objective, Learning):
                objective.step()
            rate.step()

            losses[step] = loss.detach()
            if on_step is not None:
                on_step(step, float(losses[step]))
    network.eval()
    return TrainResult(ema.network, network, losses)


def _check_data(data: Source) -> None:
    if not hasattr(data, "batch"):
        raise ValueError(
            f"data must hand out batches, as data.Images and data.GaussianMixture do, got {type(data).__name__}; "
            'pictures [N, C, H, W] in [−1, 1] are data.Images(x, {}, "mine")'
        )


def _check_network(network: nn.Module) -> None:
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ValueError("no weight of this network requires a gradient, it is frozen: network.requires_grad_(True)")


def warm_up_then_cosine(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, as a share of its peak."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))
