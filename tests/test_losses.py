"""Losses against closed forms."""

import pytest
import torch
from scipy.stats import chisquare

from diffusion_book import losses, process, schedules
from diffusion_book.data import GaussianMixture
from diffusion_book.denoise import exact
from diffusion_book.process import PREDICTIONS

LINEAR = schedules.linear()


def gaussian(std: float, dim: int = 2) -> GaussianMixture:
    eye = torch.eye(dim, dtype=torch.float64)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, dim).double(), std**2 * eye[None])


def best_network(data: GaussianMixture, schedule: schedules.Schedule, prediction: process.Prediction):
    denoiser = exact(data, schedule)
    return lambda xt, t: process.from_x0(prediction, denoiser(xt, t), schedule, xt, t)


@pytest.mark.parametrize(("t", "expected"), [(1, 0.9999), (259, 0.5), (1000, 4.036e-5)])
def test_the_least_eps_loss_for_unit_gaussian_data(t, expected, generator):
    """It is alpha_bar: high at small t, where the noise is a whisper, and low at large t."""
    n = 20_000
    data = gaussian(1.0)
    x0 = data.sample(n, generator)
    eps = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    loss = losses.simple_loss(best_network(data, LINEAR, "eps"), LINEAR, x0, torch.full((n,), t), eps, "eps")
    # Four standard errors, and that ᾱ_259 is ½ only to 0.002.
    assert loss.mean().item() == pytest.approx(expected, abs=4 * loss.std().item() / n**0.5 + 0.002 * expected)


@pytest.mark.parametrize("std", [0.3, 2.0])
@pytest.mark.parametrize("t", [5, 200, 700])
def test_the_least_eps_loss_for_gaussian_data_of_any_width(t, std, generator):
    n = 20_000
    data = gaussian(std)
    x0, eps = data.sample(n, generator), torch.randn(n, 2, generator=generator, dtype=torch.float64)
    loss = losses.simple_loss(best_network(data, LINEAR, "eps"), LINEAR, x0, torch.full((n,), t), eps, "eps")
    alpha_bar = LINEAR.alpha_bar[t].item()
    expected = alpha_bar * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
    assert loss.mean().item() == pytest.approx(expected, abs=4 * loss.std().item() / n**0.5)


def test_the_faces_weigh_one_error_by_the_snr(generator):
    """For one x̂0 the ε-loss is SNR times the x0-loss, and the v-loss SNR + 1 times: the +1 of min-SNR under v."""
    t = torch.tensor([1, 10, 300, 800, 1000])
    x0, eps, x0_hat = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    snr = LINEAR.alpha_bar[t] / (1 - LINEAR.alpha_bar[t])

    def loss(prediction: process.Prediction) -> torch.Tensor:
        def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return process.from_x0(prediction, x0_hat, LINEAR, xt, t)

        return losses.simple_loss(network, LINEAR, x0, t, eps, prediction)

    torch.testing.assert_close(loss("x0"), ((x0 - x0_hat) ** 2).mean(1))
    torch.testing.assert_close(loss("eps"), snr * loss("x0"), rtol=1e-9, atol=0)
    torch.testing.assert_close(loss("v"), (snr + 1) * loss("x0"), rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_one_number_an_example_and_zero_for_the_truth(prediction, generator):
    x0, eps = torch.randn(4, 1, 3, 3, generator=generator), torch.randn(4, 1, 3, 3, generator=generator)
    t = torch.tensor([1, 20, 500, 1000])
    truth = process.target(prediction, LINEAR, x0, eps, t)
    off = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None, None, None]
    loss = losses.simple_loss(lambda xt, t: truth + off, LINEAR, x0, t, eps, prediction)
    # The score at t = 1 is ε/b = 100 ε: adding to it rounds at 1e-5.
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 4.0, 9.0]), rtol=1e-4, atol=1e-6)


def test_zero_terminal_snr_gives_no_nan_weights(generator):
    schedule = schedules.zero_terminal_snr(schedules.linear(50))
    weight = torch.zeros(3, requires_grad=True)
    x0, eps = torch.randn(2, 3, generator=generator), torch.randn(2, 3, generator=generator)
    loss = losses.simple_loss(lambda xt, t: weight * xt, schedule, x0, torch.tensor([50, 50]), eps, "v")
    loss.mean().backward()
    # With weight 0 the v-loss at T is the mean of x0²: v = 0 · ε − 1 · x0.
    torch.testing.assert_close(loss.detach(), (x0**2).mean(1))
    assert weight.grad is not None
    assert bool(torch.isfinite(weight.grad).all())


def test_labels_reach_the_network():
    seen = []

    def network(xt: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(y.tolist())
        return xt

    x = torch.zeros(2, 3)
    losses.simple_loss(network, LINEAR, x, torch.tensor([1, 2]), x, "v", torch.tensor([8, 9]))
    assert seen == [[8, 9]]


def test_a_half_precision_output_is_compared_in_float32(generator):
    x0, eps = torch.randn(4, 8, generator=generator), torch.randn(4, 8, generator=generator)
    t = torch.tensor([10, 100, 500, 900])
    loss = losses.simple_loss(lambda xt, t: xt.bfloat16(), LINEAR, x0, t, eps, "eps")
    rounded = process.add_noise(LINEAR, x0, t, eps).bfloat16().float()
    torch.testing.assert_close(loss, ((rounded - eps) ** 2).mean(1))  # also tells that the loss is float32


def test_a_network_of_another_shape_is_refused():
    """Six channels for three: mean and variance were learned, and only one of them is wanted."""
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"shape of its input, \(2, 3, 4, 4\), got \(2, 6, 4, 4\)"):
        losses.simple_loss(lambda xt, t: torch.cat([xt, xt], 1), LINEAR, x, torch.tensor([1, 2]), x)


def test_training_at_time_zero_is_refused():
    """x_0 has no noise in it to predict."""
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"t must lie in 1 … 1000, got 0"):
        losses.simple_loss(lambda xt, t: xt, LINEAR, x, torch.tensor([0, 5]), x)


def test_an_unknown_prediction_is_refused_with_the_list_of_known_ones():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="choose one of eps, x0, v, score"):
        losses.simple_loss(lambda xt, t: xt, LINEAR, x, torch.tensor([1, 5]), x, "velocity")


def test_times_are_uniform_over_one_to_T(generator):
    schedule = schedules.linear(20)
    t = losses.draw_times(schedule, 20_000, generator)
    counts = torch.bincount(t, minlength=21)
    assert len(counts) == 21
    assert counts[0] == 0
    assert chisquare(counts[1:].numpy()).pvalue > 1e-4  # a fair draw fails once in ten thousand seeds, and this is one
    assert t.dtype == torch.int64
