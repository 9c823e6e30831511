"""The equations of chapter 10, each against a route that does not use it."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from diffusion_book import predictions, process, schedules
from diffusion_book.data.images import to_uint8

LINEAR = schedules.linear()


@pytest.mark.equation("eq-dataset-resize")
@pytest.mark.parametrize("k", [2, 4, 6, 16])
def test_what_a_resize_keeps_of_white_noise(k):
    """The weights of one output pixel are its gradient; white noise keeps the sum of their squares."""
    kept = []
    for antialias in (False, True):
        x = torch.zeros(1, 1, 7 * k, 7 * k, dtype=torch.float64, requires_grad=True)
        F.interpolate(x, size=(7, 7), mode="bilinear", antialias=antialias)[0, 0, 3, 3].backward()
        assert x.grad is not None
        kept.append(float(x.grad.pow(2).sum()))
    assert kept[0] == pytest.approx(1 / 4, rel=1e-12)
    assert kept[1] == pytest.approx(((4 * k**2 - 1) / (6 * k**3)) ** 2, rel=1e-10)
    assert kept[1] == pytest.approx(4 / (9 * k**2), rel=1 / k**2)  # the approximation, and its order


@pytest.mark.equation("eq-dataset-rounding", by="data.images.to_uint8")
def test_rounding_is_as_much_noise_as_the_schedule_has_at_that_log_snr(generator):
    n, delta = 400_000, 2 / 255
    x = 1.98 * torch.rand(n, generator=generator, dtype=torch.float64) - 0.99
    stored = to_uint8(x.reshape(4, 1, 200, 500))
    square = (stored.double().flatten() / 127.5 - 1 - x).pow(2)
    standard_error = float(square.std()) / math.sqrt(n)
    assert abs(float(square.mean()) - delta**2 / 12) < 4 * standard_error
    # The schedule with a = 1 − t, b = t has that standard deviation, relative to the signal, at this t.
    relative = float(square.mean().sqrt())
    log_snr = float(schedules.Flow().at(relative / (1 + relative)).log_snr)
    assert log_snr == pytest.approx(math.log(12 / delta**2), abs=5 * standard_error / float(square.mean()))


@pytest.mark.equation("eq-dataset-affine")
@pytest.mark.parametrize(("c", "d"), [(0.5, 0.5), (127.5, 127.5), (-2.0, 0.3)])
@pytest.mark.parametrize("t", [1, 300, 1000])
def test_a_scale_of_the_data_is_a_shift_of_log_snr(c, d, t, generator):
    """The log-SNR of a pattern, measured: x_t is affine in it, so its answers to x and to ε are two slopes."""
    _, a, b = LINEAR.at(t)

    def picture(x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        return (a * (c * x + d) + b * eps - a * d) / c

    x = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    eps = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    to_x, to_eps = torch.autograd.grad(picture(x, eps).sum(), (x, eps))
    torch.testing.assert_close(to_x, a.expand(5))
    measured = torch.log(to_x**2 / to_eps**2)
    torch.testing.assert_close(measured, (LINEAR.at(t).log_snr + 2 * math.log(abs(c))).expand(5))


@pytest.mark.equation("eq-dataset-weight")
@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("t", [20, 400, 900])
def test_scale_weighs_the_error_of_v(c, t, generator):
    x, x_hat, eps = (torch.randn(7, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    d = 0.4
    xt = process.add_noise(LINEAR, c * x + d, t, eps)
    v = predictions.target("v", LINEAR, c * x + d, eps, t)
    v_hat = predictions.from_x0("v", c * x_hat + d, LINEAR, xt, t)
    of_the_picture = torch.exp(LINEAR.at(t).log_snr + 2 * math.log(c))
    weighted = (c**2 + of_the_picture) * (x - x_hat).pow(2).sum(1)
    torch.testing.assert_close((v - v_hat).pow(2).sum(1), weighted, rtol=1e-8, atol=1e-10)


@pytest.mark.equation("eq-dataset-cancel")
@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_under_the_cosine_the_weight_of_a_scale_is_undone_by_how_often_a_level_is_met(c):
    """The mean of a weighted error over uniform times, by quadrature, is c times one integral that knows no c."""
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    angle = u * math.pi / 2
    of_the_picture = 2 * torch.log(c / torch.tan(angle))

    def error(log_snr):  # any error that falls off on both sides
        return torch.exp(-((log_snr - 0.3) ** 2)) * (1 + torch.sigmoid(log_snr))

    measured = ((c**2 + torch.exp(of_the_picture)) * error(of_the_picture)).mean()
    log_snr = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    formula = torch.trapezoid(c / math.pi * torch.exp(log_snr / 2) * error(log_snr), log_snr)
    assert float(measured) == pytest.approx(float(formula), rel=1e-6)
    density = torch.histc(of_the_picture.clamp(-3, 3), 2, -1.0, 1.0) / 400_000  # of the first factor alone
    wanted = [
        torch.trapezoid(c * torch.exp(x / 2) / (c**2 + torch.exp(x)) / math.pi, x)
        for x in (torch.linspace(-1, 0, 2001, dtype=torch.float64), torch.linspace(0, 1, 2001, dtype=torch.float64))
    ]
    torch.testing.assert_close(density, torch.stack(wanted), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("k", [3, 5])
def test_an_odd_factor_reads_one_pixel(k):
    x = torch.zeros(1, 1, 7 * k, 7 * k, dtype=torch.float64, requires_grad=True)
    F.interpolate(x, size=(7, 7), mode="bilinear")[0, 0, 3, 3].backward()
    assert x.grad is not None
    assert float(x.grad.pow(2).sum()) == pytest.approx(1, rel=1e-12)


@pytest.mark.equation("eq-dataset-prior", by="process.prior_kl")
@pytest.mark.parametrize(("c", "d"), [(1.0, 0.0), (0.5, 0.5), (127.5, 127.5)])
def test_prior_term_is_the_divergence_of_the_gaussians(c, d, generator):
    scaled = c * (2 * torch.rand(40, 6, generator=generator, dtype=torch.float64) - 1) + d
    _, a, b = LINEAR.at(1000)
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(a * scaled, b), normal(0.0, torch.ones_like(b))).sum(1).mean()
    formula = a**2 * scaled.pow(2).sum(1).mean() / 2 + 6 / 2 * (b**2 - 1 - torch.log(b**2))
    assert float(formula) == pytest.approx(float(exact), rel=1e-9)
    assert float(process.prior_kl(LINEAR, scaled).mean()) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.equation("eq-dataset-unseen")
@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 3), (3, 6), (5, 4)])
def test_share_unseen_counted_over_every_sequence_of_draws(n, m):
    sequences = list(itertools.product(range(n), repeat=m))
    unseen = sum(0 not in sequence for sequence in sequences)
    assert unseen / len(sequences) == pytest.approx((1 - 1 / n) ** m, rel=1e-12)
    missed_often = (1 - 1 / 10_000) ** 20_000
    assert missed_often == pytest.approx(math.exp(-2), rel=2e-4)  # wrong by m / 2n², to first order


@pytest.mark.equation("eq-dataset-leak")
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_accuracy_is_recovered_from_a_leaking_test(share, generator):
    """A reader by nearest neighbour, and a test of which a share was copied from what it remembers."""
    n, count = 400, 2000
    train, y_train = torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)
    fresh, y_fresh = torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)
    leaked = torch.rand(count, generator=generator) < share
    which = torch.randint(n, (count,), generator=generator)
    x, y = torch.where(leaked[:, None], train[which], fresh), torch.where(leaked, y_train[which], y_fresh)

    right = (y_train[torch.cdist(x, train).argmin(1)] == y).double()
    f, A = float(leaked.double().mean()), float(right[~leaked].mean())
    assert right[leaked].all()
    assert float(right.mean()) == pytest.approx(f + (1 - f) * A)
    assert (float(right.mean()) - f) / (1 - f) == pytest.approx(A)
