"""What all networks ask of their inputs: the dtype of the weights, whichever that is, and tensors."""

import itertools
import math

import pytest
import torch
from torch import nn

from diffusion_book import schedules
from diffusion_book.losses import simple_loss
from diffusion_book.nn import (
    MLP,
    SIZES,
    Classifier,
    ClassifierConfig,
    DiT,
    DiTConfig,
    UNet,
    UNetConfig,
    timestep_embedding,
)

T4 = torch.tensor([1, 250, 700, 1000])
NETWORKS = {
    "unet": (lambda: UNet(UNetConfig.named("tiny", classes=3)), (4, 1, 8, 8)),
    "unet-others": (
        lambda: UNet(UNetConfig.named("tiny", conditioning="add", resample="block", patch=2)),
        (4, 1, 8, 8),
    ),
    "dit": (lambda: DiT(DiTConfig.named("tiny", classes=3)), (4, 1, 8, 8)),
    "mlp": (lambda: MLP(2, 16, 2, classes=3), (4, 2)),
}
every_network = pytest.mark.parametrize(("make", "shape"), NETWORKS.values(), ids=NETWORKS.keys())
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def rounding(dtype: torch.dtype) -> float:
    """As a share of the output's size: a few of the dtype's, and those of the angles in float32.

    An angle of 1000 is off by 1000 · 6e-8, but only the fastest of the sinusoids has it.
    """
    return 5 * torch.finfo(dtype).eps + 1e-5


@every_network
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("t", [T4, T4 / 1000], ids=["steps", "real"])
def test_a_network_of_any_dtype_takes_a_batch_of_that_dtype(make, shape, dtype, t, generator, randomised):
    """And says what it says in float64, up to its rounding; the time may be of any dtype."""
    network, x = randomised(make()), torch.randn(shape, generator=generator)
    exact = network.double()(x.double(), t)
    found = network.to(dtype)(x.to(dtype), t)
    assert found.dtype == dtype
    assert (found.double() - exact).norm() <= rounding(dtype) * exact.norm()
    found.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in network.parameters())


@every_network
def test_the_loss_can_be_had_in_float64(make, shape, generator, randomised):
    """Float32 agrees to its rounding, which float64 itself is free of: it differs from float32, and not by more."""
    network, schedule = randomised(make()), schedules.linear(1000)
    x0, eps = torch.randn(2, *shape, generator=generator)
    rough = simple_loss(network, schedule, x0, T4, eps)
    exact = simple_loss(network.double(), schedule, x0.double(), T4, eps.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(rough.double(), exact, rtol=2 * rounding(torch.float32), atol=0)
    assert not torch.equal(rough.double(), exact)


def test_sinusoids_in_float64_are_those_of_python():
    t = torch.tensor([1.0, 999.5], dtype=torch.float64)
    frequency = [1000 ** (-k / 4) for k in range(4)]
    expected = [[*(math.cos(s * f) for f in frequency), *(math.sin(s * f) for f in frequency)] for s in t.tolist()]
    found = timestep_embedding(t, 8, 1000.0, dtype=torch.float64)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_network_in_float64_is_told_the_time_in_float64(generator):
    network, told = MLP(2, 16, 1).double(), []
    network.embed_time.layers.register_forward_pre_hook(lambda module, args: told.append(args[0]))
    network(torch.randn(4, 2, dtype=torch.float64, generator=generator), T4)
    assert torch.equal(told[0], timestep_embedding(T4, 64, dtype=torch.float64))
    assert not torch.equal(told[0], timestep_embedding(T4, 64).double())


def test_times_that_are_near_each_other_stay_apart_in_bfloat16(generator, randomised):
    """The angles are computed before they are rounded: in bfloat16 itself 998 would be 1000."""
    network = randomised(UNet(SIZES["tiny"])).bfloat16()
    assert torch.tensor(998).bfloat16() == 1000
    assert not torch.equal(network.embed(torch.tensor([998])), network.embed(torch.tensor([1000])))


def test_sinusoids_do_not_follow_the_default_dtype(monkeypatch):
    before = timestep_embedding(T4, 16)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(timestep_embedding(T4, 16), before)
    finally:
        torch.set_default_dtype(torch.float32)


@every_network
@pytest.mark.parametrize(("weights", "batch"), list(itertools.permutations(DTYPES, 2)))
def test_a_batch_of_another_dtype_than_the_weights_is_refused(make, shape, weights, batch):
    with pytest.raises(ValueError, match=rf"must be {weights}, as the weights of this network are, got {batch}; use"):
        make().to(weights)(torch.zeros(shape, dtype=batch), T4)


def test_a_classifiers_images_and_a_text_have_the_dtype_of_the_weights_too():
    classifier = Classifier(ClassifierConfig(channels=4, features=8)).double().eval()
    assert classifier(torch.zeros(2, 1, 8, 8, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(ValueError, match=r"images must be torch.float64, as the weights of this network are"):
        classifier(torch.zeros(2, 1, 8, 8))
    unet, x = UNet(UNetConfig.named("tiny", context_dim=6, pooled_dim=5)), torch.zeros(4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"context must be torch.float32, .* got torch.float16"):
        unet(x, T4, context=torch.zeros(4, 3, 6).half())
    with pytest.raises(ValueError, match=r"pooled must be torch.float32, .* got torch.float64"):
        unet(x, T4, pooled=torch.zeros(4, 5).double())


@every_network
def test_autocast_takes_what_it_casts_and_no_float64(make, shape):
    network, x = make(), torch.zeros(shape)
    with torch.autocast("cpu", torch.bfloat16):
        for batch in (x, x.bfloat16(), x.half()):
            assert network(batch, T4).shape == x.shape
        with pytest.raises(ValueError, match=r"must be torch.float32, .* got torch.float64"):
            network(x.double(), T4)


class Quantised(nn.Module):
    """A layer whose weights are integers."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = float(layer.weight.detach().abs().max()) / 127
        self.weight = nn.Parameter((layer.weight / scale).round().to(torch.int8), requires_grad=False)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.scale * self.weight.to(x)).T


def test_a_layer_whose_weights_are_integers_takes_any_dtype():
    network = MLP(2, 16, 1).double()
    network.first, network.embed_time.layers = Quantised(network.first), Quantised(network.embed_time.layers[0])
    assert network(torch.zeros(4, 2).double(), T4).dtype == torch.float64


@every_network
@pytest.mark.parametrize("x", [[[0.0, 0.0]] * 4, None, 3], ids=str)
def test_a_batch_that_is_no_tensor_is_refused(make, shape, x):
    with pytest.raises(ValueError, match=rf"must be a tensor \[B, …\], got {type(x).__name__}"):
        make()(x, T4)


def test_a_text_that_is_no_tensor_is_refused():
    unet, x = UNet(UNetConfig.named("tiny", context_dim=6)), torch.zeros(4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"context must be a tensor \[B, …\], got str"):
        unet(x, T4, context="a small blue cat")
    with pytest.raises(ValueError, match=r"context_mask must be a tensor \[4, L\], got list"):
        unet(x, T4, context=torch.zeros(4, 3, 6), context_mask=[[True] * 3] * 4)
