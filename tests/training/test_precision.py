"""In which numbers a network computes: what "auto" means, and steps whose gradient overflowed."""

import pytest
import torch
from torch import nn

from diffusion_book.training.precision import autocast, fast_bf16, resolve, step_scaled


def test_float32_is_not_autocast():
    x = torch.ones(2, 2)
    with autocast("fp32", torch.device("cpu")):
        assert (x @ x).dtype == torch.float32
    with autocast("bf16", torch.device("cpu")):
        assert (x @ x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "chosen"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")]
)
def test_auto_is_what_a_gpu_has_units_for(capability, chosen, monkeypatch):
    """Of Hopper, Ampere, Turing, Volta and Pascal."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve("auto", torch.device("cuda")) == chosen
    for precision in ("fp32", "bf16", "fp16"):
        assert resolve(precision, torch.device("cuda")) == precision


def test_auto_is_never_float16_elsewhere():
    assert resolve("auto", torch.device("cpu")) == ("bf16" if fast_bf16(torch.device("cpu")) else "fp32")
    assert resolve("auto", torch.device("mps")) == "fp32"


def test_float16_is_refused_where_there_is_no_cuda():
    with pytest.raises(ValueError, match=r"precision = 'fp16' is for CUDA GPUs, got the device cpu; .* use 'auto'"):
        autocast("fp16", torch.device("cpu"))


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_whose_gradient_overflowed_is_left_out_and_the_next_tried_at_half_the_scale(fused):
    """Of 4 w² the gradient is 8 w, and float32 ends just below 2¹²⁸. Steps of AdamW are close to 0.1 each."""
    w = nn.Parameter(torch.ones(()))
    optimiser = torch.optim.AdamW([w], lr=0.1, weight_decay=0.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1)
    found = []
    for _ in range(5):
        optimiser.zero_grad()
        scaler.scale(4 * w**2).backward()
        scaler.unscale_(optimiser)
        found.append((step_scaled(optimiser, scaler), scaler.get_scale(), round(w.item(), 2)))
    # A growth interval of 1 doubles the scale after each step that was made.
    steps = [(False, 125, 1.0), (False, 124, 1.0), (True, 125, 0.9), (True, 126, 0.8), (False, 125, 0.8)]
    assert found == [(stepped, 2.0**power, weight) for stepped, power, weight in steps]
    off = torch.amp.GradScaler("cpu", enabled=False)
    assert step_scaled(optimiser, off)
