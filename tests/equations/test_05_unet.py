"""The equations of chapter 5, each against a route that does not use it."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusion_book import nn as library
from diffusion_book import predictions, process, schedules
from diffusion_book.nn.attention import SelfAttention, attend
from diffusion_book.nn.dit import DiTBlock


def randn(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def operations(network: nn.Module, *inputs: torch.Tensor) -> int:
    """What PyTorch counts, a multiplication with its addition as one."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.equation("eq-unet-receptive-field")
@pytest.mark.parametrize(
    ("kernels", "strides"), [([3] * 5, [1] * 5), ([3, 3, 3, 3], [1, 2, 2, 1]), ([4, 3, 3], [4, 1, 1]), ([2, 5], [3, 2])]
)
def test_the_field_is_where_the_gradient_is(kernels, strides):
    network = nn.Sequential(*[nn.Conv1d(1, 1, k, s, bias=False) for k, s in zip(kernels, strides)])
    for weight in network.parameters():
        nn.init.ones_(weight)  # no path cancels another
    x = torch.zeros(1, 1, 100, requires_grad=True)
    (slope,) = torch.autograd.grad(network(x)[0, 0, 2], x)
    r = 1 + sum((k - 1) * math.prod(strides[:layer]) for layer, k in enumerate(kernels))
    seen = slope[0, 0].nonzero()  # a stride longer than its kernel leaves gaps: r counts from end to end
    assert int(seen.max() - seen.min()) + 1 == r


@pytest.mark.equation("eq-unet-effective-field")
@pytest.mark.parametrize(("n", "k"), [(1, 3), (7, 3), (20, 5)])
def test_the_profile_of_the_gradient_is_as_wide_as_the_root_says(n, k):
    x = torch.zeros(1, 1, 2 * n * k + 1, dtype=torch.float64, requires_grad=True)
    h, box = x, torch.full((1, 1, k), 1 / k, dtype=torch.float64)
    for _ in range(n):
        h = F.conv1d(h, box, padding=k // 2)
    (slope,) = torch.autograd.grad(h[0, 0, n * k], x)
    place = torch.arange(2 * n * k + 1, dtype=torch.float64) - n * k
    assert float((slope[0, 0] * place**2).sum().sqrt()) == pytest.approx(math.sqrt(n * (k**2 - 1) / 12), rel=1e-9)


@pytest.mark.equation("eq-unet-waist")
@pytest.mark.parametrize("m", [1, 3, 5])
def test_no_matrix_that_was_found_by_descent_passes_more_noise_through_a_waist(m):
    """E‖ε − Mε‖² is ‖I − M‖² in the norm of Frobenius; descend on M = AB from a random start."""
    D, generator = 6, torch.Generator().manual_seed(m)
    A, B = randn(D, m, generator=generator), randn(m, D, generator=generator)
    A.requires_grad_()
    B.requires_grad_()
    optimiser = torch.optim.Adam([A, B], 0.03)
    for _ in range(1500):
        loss = ((torch.eye(D, dtype=torch.float64) - A @ B) ** 2).sum() / D
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss) == pytest.approx(1 - m / D, abs=1e-4)


@pytest.mark.equation("eq-unet-slope", by="predictions.target")
@pytest.mark.parametrize("t", [50, 500, 900])
def test_slope_of_the_best_guess_is_that_of_a_regression(t, generator):
    n, tau, schedule = 400_000, 0.5, schedules.cosine()
    x0, eps = tau * randn(n, 1, generator=generator), randn(n, 1, generator=generator)
    xt, v = process.add_noise(schedule, x0, t, eps), predictions.target("v", schedule, x0, eps, t)
    fitted = float((v * xt).sum() / (xt**2).sum())
    residual = v - fitted * xt
    standard_error = float(residual.std() / (xt**2).sum().sqrt())
    a, b = float(schedule.at(t).a), float(schedule.at(t).b)
    assert fitted == pytest.approx(a * b * (1 - tau**2) / (a**2 * tau**2 + b**2), abs=4 * standard_error)


@pytest.mark.equation("eq-unet-waves", by="nn.timestep_embedding")
def test_how_alike_two_times_are_depends_on_their_distance():
    """Against complex exponentials: the real part of Σ exp(iω(t − s))."""
    t = torch.tensor([0.0, 3.0, 120.5, 999.0], dtype=torch.float64)
    gamma = library.timestep_embedding(t, 32, dtype=torch.float64)
    omega = torch.logspace(0, -4, 17, dtype=torch.float64)[:-1]
    spun = torch.exp(1j * (t[:, None] - t)[:, :, None] * omega).sum(2).real
    torch.testing.assert_close(gamma @ gamma.T, spun, rtol=1e-9, atol=1e-9)
    assert gamma.norm(dim=1) == pytest.approx([4.0] * 4)


@pytest.mark.equation("eq-unet-groupnorm")
def test_group_normalisation_forgets_scale_and_common_shift(generator):
    norm = nn.GroupNorm(4, 8, eps=0.0).double()
    h = randn(3, 8, 5, 5, generator=generator)
    k, c = torch.rand(4, generator=generator).double() + 0.5, randn(4, generator=generator)  # one for each group
    moved = h * k.repeat_interleave(2)[:, None, None] + c.repeat_interleave(2)[:, None, None]
    torch.testing.assert_close(norm(moved), norm(h), rtol=1e-9, atol=1e-9)
    within = h + randn(8, 1, 1, generator=generator)  # a shift that differs within the group is not forgotten
    assert float((norm(within) - norm(h)).abs().max()) > 0.1


@pytest.mark.equation("eq-unet-dot")
@pytest.mark.parametrize("d", [4, 64])
def test_variance_of_a_product_of_random_vectors(d, generator):
    n = 100_000
    products = (randn(n, d, generator=generator) * (2 * torch.rand(n, d, generator=generator) - 1) * 3**0.5).sum(1)
    standard_error = float((products**2).std()) / math.sqrt(n)
    assert float((products**2).mean()) == pytest.approx(d, abs=4 * standard_error)


@pytest.mark.equation("eq-unet-permutation", by="nn.attention.attend")
def test_attention_does_not_know_places(generator):
    q, k, v = (randn(2, 1, 9, 8, generator=generator) for _ in range(3))
    P = torch.eye(9, dtype=torch.float64)[torch.randperm(9, generator=generator)]
    torch.testing.assert_close(attend(P @ q, P @ k, P @ v), P @ attend(q, k, v))


@pytest.mark.equation("eq-unet-attention-cost", by="nn.attention.SelfAttention")
@pytest.mark.parametrize(("C", "side"), [(32, 8), (64, 14)])
def test_operations_of_attention_and_of_a_convolution_are_those_counted(C, side):
    x, N = torch.zeros(1, C, side, side), side**2
    assert operations(SelfAttention(C, None, 8), x) == 4 * N * C**2 + 2 * N**2 * C
    assert operations(nn.Conv2d(C, C, 3, padding=1), x) == 9 * N * C**2


@pytest.mark.equation("eq-unet-dit-cost", by="nn.dit.DiTBlock")
@pytest.mark.parametrize(("D", "N"), [(64, 64), (96, 49)])
def test_operations_and_weights_of_a_transformer_block_are_those_counted(D, N):
    block = DiTBlock(D, 4, 4)
    assert operations(block, torch.zeros(1, N, D), torch.zeros(1, D)) == 12 * N * D**2 + 2 * N**2 * D + 6 * D**2
    assert sum(weight.numel() for weight in block.parameters()) == 18 * D**2 + 15 * D
