"""The training loop of chapter 6: draw times and noise, predict, step, average."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_book._checks import at_least
from diffusion_book.conditions import Conditions, checked, drop
from diffusion_book.data import Source
from diffusion_book.losses import draw_times, simple_loss
from diffusion_book.predictions import Prediction, check_prediction
from diffusion_book.schedules import Schedule
from diffusion_book.training.ema import EMA, check_decay
from diffusion_book.training.objective import flip_half

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps: optimiser steps. batch_size: examples in each.
        learning_rate: its peak, after `warmup` steps; then a cosine takes it to zero at the last step.
        weight_decay: AdamW's.
        grad_clip: the gradient's norm is cut to this.
        prediction: what the network learns to output.
        ema_decay: of the averaged weights.
        flip: train on each picture or, half of the time, on its mirror image. For pictures whose mirror image could as
            well be one of them, and for nothing with letters, digits, or a left and a right that mean something: what
            is flipped in training comes out flipped.
        condition_dropout: the share of examples of which the network is told nothing, for classifier-free guidance.
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
    prediction: Prediction = "v"
    ema_decay: float = 0.999
    flip: bool = False
    condition_dropout: float = 0.0
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, batch_size=self.batch_size)
        at_least(0, warmup=self.warmup)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}; 0 is none")
        if not self.grad_clip > 0:  # NaN is not, either
            raise ValueError(f"grad_clip must be positive, got {self.grad_clip}; use math.inf for no clipping")
        check_prediction(self.prediction)
        check_decay(self.ema_decay)
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(f"condition_dropout is a share in [0, 1], got {self.condition_dropout}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be 'auto', 'fp32', 'bf16' or 'fp16', got {self.precision!r}")


@dataclass(frozen=True)
class TrainResult:
    """What training leaves: the averaged network, to sample from; the last weights; and the loss at every step."""

    ema: nn.Module
    network: nn.Module
    losses: Tensor


def train(
    network: nn.Module,
    data: Source,
    schedule: Schedule,
    config: TrainConfig,
    nothing: Conditions | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Minimise L_simple (Ho et al. 2020, algorithm 1). Chapter 6 builds this loop line by line.

    Args:
        network: called as network(x_t, t, **conditions), with all that the data's batches have.
        data: hands out batches.
        nothing: what an example is told in the place of its condition where that is dropped, by name:
            {"y": torch.tensor(10)} for ten classes.
        on_step: told of every step and its loss.

    Raises:
        ValueError: the data hands out no batches; no weight of the network can be trained; conditions are to be
            dropped, and nothing is said to stand in their place, or a label of the data is; or precision is "fp16"
            without CUDA.
        FloatingPointError: the loss became NaN or infinite; the message names the step.
    """
    _check_data(data)
    _check_network(network)
    if config.condition_dropout > 0 and not nothing:
        raise ValueError(
            'condition_dropout needs to know what says nothing, such as nothing={"y": torch.tensor(10)} for ten classes'
        )
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
            t = draw_times(schedule, len(x0), generator)
            eps = torch.randn(x0.shape, generator=generator)
            conditions = drop(checked(conditions), nothing or {}, config.condition_dropout, generator)
            x0, eps = x0.to(device), eps.to(device)  # t stays: schedules compute in float64, which not every device has
            conditions = {name: values.to(device) for name, values in conditions.items()}

            with autocast(precision, device):
                loss = simple_loss(network, schedule, x0, t, eps, config.prediction, conditions).mean()
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {step}; lower learning_rate or use precision='fp32'"
                )
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
            if step_scaled(optimiser, scaler):
                ema.update(network)
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
        raise ValueError(
            "no weight of this network requires a gradient, so there is nothing to train; averaged networks and those "
            "of the zoo are frozen: call network.requires_grad_(True)"
        )


def own_randomness(device: torch.device) -> AbstractContextManager[None]:
    """Where seeds can be set, and the caller's global generators are afterwards as they were."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network computes at that precision on that device; see `resolve` for errors."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = dtypes.get(resolve(precision, device))
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def resolve(precision: Precision, device: torch.device) -> Precision:
    """What "auto" means on a device: "bf16" where that is fast, else "fp16" where that is, else "fp32".

    bfloat16 comes first since it has float32's range, and nothing in it overflows. float16 is fast on GPUs with tensor
    cores, which are those of compute capability 7.0 and above.

    Raises:
        ValueError: "fp16" without CUDA.
    """
    if precision == "auto":
        if fast_bf16(device):
            return "bf16"
        return "fp16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(
            f"precision = 'fp16' is for CUDA GPUs, got the device {device}; elsewhere float16 is slower than float32, "
            "and overflows as easily: use 'auto', 'bf16' or 'fp32'"
        )
    return precision


def step_scaled(optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> bool:
    """Step with unscaled gradients and adapt the scale → whether there was a step.

    There is none where a scaled gradient overflowed; the next is tried at half the scale (Micikevicius et al. 2018).
    A scaler that is off always steps.
    """
    before = scaler.get_scale()
    scaler.step(optimiser)
    scaler.update()
    return scaler.get_scale() >= before


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; emulated, it is several times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def warm_up_then_cosine(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, as a share of its peak."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))
