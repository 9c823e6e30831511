"""The receptive field of a list of layers, dilated ones among them."""

import torch
from torch import nn


def receptive_field(layers: list[tuple[int, int, int]]) -> int:
    """Return the side of the field of layers (kernel, stride, dilation), from the input to the output."""
    # solution
    r, step = 1, 1
    for k, s, d in layers:
        r += d * (k - 1) * step
        step *= s
    return r
    # end solution


def check(receptive_field):
    for layers in (
        [(3, 1, 1)],
        [(3, 1, 1), (3, 2, 1), (5, 1, 1)],
        [(3, 1, 2), (3, 2, 4), (2, 2, 1), (3, 1, 3)],
    ):
        network = nn.Sequential(
            *[nn.Conv1d(1, 1, k, s, dilation=d, bias=False) for k, s, d in layers]
        )
        for weight in network.parameters():
            nn.init.ones_(weight)
        x = torch.zeros(1, 1, 200, requires_grad=True)
        (slope,) = torch.autograd.grad(network(x)[0, 0, 5], x)
        seen = slope[0, 0].nonzero()
        measured = int(seen.max() - seen.min()) + 1
        got = receptive_field(layers)
        assert got == measured, (
            f"{layers} sees {measured} places in a row, not {got}"
        )
