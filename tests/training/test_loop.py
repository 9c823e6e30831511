"""The training loop: what it reaches, what it repeats, and what it refuses."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffusion_book import denoise, models, process, schedules
from diffusion_book.conditions import Conditions
from diffusion_book.data import GaussianMixture, ring_of_gaussians
from diffusion_book.data.augment import flip_half
from diffusion_book.nn import MLP
from diffusion_book.training import Classification, Denoising, TrainConfig, loop, precision, train

SHORT = TrainConfig(steps=8, batch_size=16, warmup=2, precision="fp32")
SCHEDULE = schedules.linear(50)
OBJECTIVE = Denoising(SCHEDULE)


class Scale(nn.Module):
    """One coefficient for each time: the family that holds the best predictor of Gaussian data."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.zeros(T + 1))

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        return self.c[t][:, None] * xt


class Labelled:
    """Gaussian points with labels 0 … 4."""

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
        x = torch.randn(size, 2, generator=generator)
        return x, {"y": torch.randint(5, (size,), generator=generator)}


class Recorder(nn.Module):
    """A network that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.times: list[Tensor] = []
        self.labels: list[Tensor | None] = []

    def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.times.append(t)
        self.labels.append(y)
        return self.layer(xt)


def gaussian(std: float) -> GaussianMixture:
    eye = torch.eye(2, dtype=torch.float64)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, 2).double(), std**2 * eye[None])


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_training_on_a_gaussian_reaches_the_closed_form_optimum(prediction):
    """Data N(0, s² I): the loss of c_t · x_t is c² V − 2 c G + P at each t, so its least value P − G²/V is known."""
    s, T = 0.6, 10
    schedule = schedules.cosine(T, beta_max=0.9)
    alpha_bar = schedule.alpha_bar[1:]
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    V = alpha_bar * s**2 + 1 - alpha_bar  # E x_t²
    G, P = {  # E x_t · target and E target², from x_t = a x0 + b ε
        "eps": (b, torch.ones_like(b)),
        "x0": (a * s**2, torch.full_like(b, s**2)),
        "v": (a * b * (1 - s**2), alpha_bar + (1 - alpha_bar) * s**2),
    }[prediction]
    least = P - G**2 / V
    if prediction == "eps":  # the design's own formula for it
        torch.testing.assert_close(least, alpha_bar * s**2 / V)

    steps, batch = 1500, 128
    config = TrainConfig(steps=steps, batch_size=batch, learning_rate=0.02, precision="fp32")
    result = train(Scale(T), gaussian(s), Denoising(schedule, prediction), config)

    # The excess of what was learned, by algebra. One coefficient fitted by least squares to n draws has an excess of
    # residual/n on average; a rate that decays weighs the draws unequally, which costs a factor: at most five.
    for network in (result.ema, result.network):
        c = network.c.detach().double()[1:]
        excess = (V * (c - G / V) ** 2).mean().item()
        assert excess < 5 * P.mean().item() / (2 * steps * batch / T)

    # And the losses of the last third are the optimum's, within four standard errors of their mean.
    tail = result.losses[-steps // 3 :].double()
    error = tail.std().item() / len(tail) ** 0.5
    assert tail.mean().item() == pytest.approx(least.mean().item(), abs=4 * error + excess)


def test_a_network_learns_to_sample_a_ring():
    """The loss of an MLP ends near that of the exact denoiser, which nothing can beat."""
    ring, schedule = ring_of_gaussians(4, 1.0, 0.3), schedules.linear(50, 1e-3, 0.25)
    config = TrainConfig(steps=400, batch_size=256, learning_rate=3e-3, warmup=20, precision="fp32", ema_decay=0.98)
    torch.manual_seed(0)
    result = train(MLP(2, 48, 2), ring, Denoising(schedule), config)
    generator = torch.Generator().manual_seed(1)
    n = 20_000
    x0 = ring.sample(n, generator).float()
    t = torch.randint(1, 51, (n,), generator=generator)
    xt = process.add_noise(schedule, x0, t, torch.randn(n, 2, generator=generator))
    best = denoise.exact(ring, schedule)(xt, t)
    found = denoise.from_network(result.ema, schedule, "v")(xt, t)
    weight = (1 / schedule.at(t).b ** 2).float()  # the v-loss weighs x0 by SNR + 1 = 1/b²
    excess = weight * ((found - x0) ** 2 - (best - x0) ** 2).mean(1)
    error = excess.std().item() / n**0.5
    least = (weight * ((best - x0) ** 2).mean(1)).mean().item()
    assert -4 * error < excess.mean().item() < 0.1 * least


def test_one_seed_gives_the_same_weights_bit_by_bit():
    def run(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(3)  # the network's own start
        network = MLP(2, 16, 1)
        torch.manual_seed(seed)  # the loop must not depend on the global seed
        config = TrainConfig(steps=8, batch_size=16, warmup=2, precision="fp32", seed=seed // 10)
        result = train(network, ring_of_gaussians(), OBJECTIVE, config)
        return {**result.ema.state_dict(), **{f"last.{k}": v for k, v in result.network.state_dict().items()}}

    first, second, other = run(10), run(11), run(20)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_one_seed_gives_the_same_weights_with_dropout_too_and_leaves_the_callers_generator_alone():
    def run(seed: int) -> Tensor:
        torch.manual_seed(3)
        network = MLP(2, 16, 1)
        network.layers[0].append(nn.Dropout(0.5))
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        train(network, ring_of_gaussians(), OBJECTIVE, SHORT)
        assert torch.equal(torch.get_rng_state(), before)
        return network.last.weight

    assert torch.equal(run(10), run(11))


def test_a_network_of_which_nothing_can_be_trained_is_refused():
    """Averages and the networks of the zoo are frozen; one frozen layer is no mistake."""
    first = train(MLP(2, 16, 1), ring_of_gaussians(), OBJECTIVE, SHORT)
    for network in (first.ema, models.load("mnist-unet").network, nn.Identity()):
        with pytest.raises(
            ValueError, match=r"no weight of this network requires a gradient, .*requires_grad_\(True\)"
        ):
            train(network, ring_of_gaussians(), OBJECTIVE, SHORT)
    again = first.ema.requires_grad_(True)
    again.first.requires_grad_(False)
    frozen, free = again.first.weight.clone(), again.last.weight.clone()
    train(again, ring_of_gaussians(), OBJECTIVE, SHORT)
    assert torch.equal(again.first.weight, frozen)
    assert not torch.equal(again.last.weight, free)


def test_a_bad_decay_is_refused_before_a_batch_is_drawn():
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\), got 1.0"):
        train(Recorder(), None, OBJECTIVE, TrainConfig(ema_decay=1.0))


def test_the_average_follows_and_differs_from_the_last_weights():
    """EMA not updated: after training it must have left the start, and be neither the network nor its copy."""
    torch.manual_seed(0)
    network = MLP(2, 16, 1)
    start = {key: value.clone() for key, value in network.state_dict().items()}
    result = train(network, ring_of_gaussians(), OBJECTIVE, SHORT)
    assert result.network is network
    for key, average in result.ema.state_dict().items():
        assert not torch.equal(average, start[key])
        assert not torch.equal(average, network.state_dict()[key])
    assert not result.ema.training
    assert not result.network.training


def test_times_cover_one_to_T_and_no_label_is_passed_where_there_is_none():
    network = Recorder()
    result = train(network, ring_of_gaussians(), OBJECTIVE, TrainConfig(steps=200, batch_size=64, precision="fp32"))
    times = torch.cat(network.times)
    # 12,800 draws miss one of 50 times with probability 50 · (49/50)^12800 < 1e-100.
    assert sorted(set(times.tolist())) == list(range(1, 51))
    assert network.labels == [None] * 200
    assert result.losses.shape == (200,)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_the_share_of_dropped_labels_is_the_one_asked_for(share):
    network = Recorder()
    config = TrainConfig(steps=100, batch_size=100, precision="fp32")
    train(network, Labelled(), Denoising(SCHEDULE, nothing={"y": torch.tensor(5)}, dropout=share), config)
    labels = torch.cat([y for y in network.labels if y is not None])
    n = len(labels)
    assert n == 10_000
    assert (labels == 5).float().mean().item() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))
    if share < 1:  # those that stay are still uniform: dropping does not look at the label
        kept = labels[labels < 5]
        frequency = torch.bincount(kept, minlength=5) / len(kept)
        assert bool(((frequency - 0.2).abs() < 5 * math.sqrt(0.16 / len(kept))).all())


def test_labels_stay_with_their_examples():
    """Data whose label is the sign of its first coordinate: every pair must arrive as it was drawn."""

    class Signs:
        def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
            y = torch.randint(2, (size,), generator=generator)
            return (100.0 * (2 * y - 1))[:, None].expand(size, 2), {"y": y}

    seen = []

    class Network(Recorder):
        def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            seen.append(bool(((xt[:, 0] > 0) == (y == 1)).all()))
            return self.layer(xt)

    # ᾱ_T of this schedule is far from zero, so 100 stays 50 standard deviations away from the noise.
    objective = Denoising(schedules.linear(10, 1e-4, 0.02), nothing={"y": torch.tensor(2)})
    train(Network(), Signs(), objective, SHORT)
    assert seen == [True] * 8


def test_a_label_of_the_data_cannot_say_nothing():
    """Ten digits and "no label" = 9: nines and anything would be one, in silence."""
    objective = Denoising(SCHEDULE, nothing={"y": torch.tensor(4)}, dropout=0.1)
    with pytest.raises(ValueError, match="y = 4 is to say nothing, and is also a label of the data; take one that no"):
        train(Recorder(), Labelled(), objective, SHORT)


@pytest.mark.parametrize("data", [torch.zeros(8, 2), [torch.zeros(2)], "mnist-5k", DataLoader(torch.zeros(8, 2))])
def test_what_hands_out_no_batches_is_refused(data):
    with pytest.raises(ValueError, match=r"data must hand out batches, as data.Images and .* got \w+; pictures"):
        train(Recorder(), data, OBJECTIVE, SHORT)


def test_pictures_are_flipped_before_anything_else_is_drawn(generator):
    x = torch.randn(16, 1, 4, 4, generator=generator)

    class Same:
        def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
            return x, {}

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.3))

        def forward(self, xt: Tensor, t: Tensor) -> Tensor:
            return self.scale * torch.arange(4) * xt  # it tells left from right

    config = TrainConfig(steps=1, batch_size=16, precision="fp32", seed=7, flip=True)
    found = train(Scaled(), Same(), OBJECTIVE, config).losses[0]
    again = torch.Generator().manual_seed(7)
    flipped = flip_half(x, again)
    expected = OBJECTIVE.loss(Scaled(), OBJECTIVE.draw(flipped, {}, again)).mean()
    assert not torch.equal(flipped, x)
    assert torch.equal(found, expected.detach())


def test_labels_in_the_place_of_conditions_are_refused():
    class Bare(Labelled):
        def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return torch.zeros(size, 2), torch.zeros(size, dtype=torch.int64)

    with pytest.raises(ValueError, match=r"conditions are tensors by name, .* got Tensor"):
        train(Recorder(), Bare(), OBJECTIVE, SHORT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_data_stops_training_and_names_the_step(bad):
    class TurnsBad:
        calls = 0

        def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
            self.calls += 1
            return torch.full((size, 2), bad if self.calls == 4 else 0.0), {}

    network = MLP(2, 8, 1)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 3; lower learning_rate or use"):
        train(network, TurnsBad(), OBJECTIVE, SHORT)
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())  # stopped before the weights took it


def test_every_step_is_reported_with_its_loss():
    seen = []
    result = train(
        Recorder(), ring_of_gaussians(), OBJECTIVE, SHORT, on_step=lambda step, loss: seen.append((step, loss))
    )
    assert [step for step, _ in seen] == list(range(8))
    assert [loss for _, loss in seen] == result.losses.tolist()


def test_the_rate_warms_up_then_falls_like_a_cosine_to_zero():
    """Seen from outside: with a constant gradient, clipped to a size, AdamW moves by the learning rate at each step."""

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, xt: Tensor, t: Tensor) -> Tensor:
            return 0 * xt + self.w - 1e6  # so far from any target that the gradient does not change

    class Zeros:
        def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
            return torch.zeros(size, 1), {}

    network, weights = Slope(), [0.0]
    config = TrainConfig(steps=20, batch_size=64, warmup=4, learning_rate=0.1, precision="fp32")
    train(network, Zeros(), OBJECTIVE, config, on_step=lambda step, loss: weights.append(network.w.item()))
    rates = torch.tensor(weights).diff()
    torch.testing.assert_close(rates[:4], torch.tensor([0.025, 0.05, 0.075, 0.1]), rtol=1e-3, atol=0)
    torch.testing.assert_close(rates[12], torch.tensor(0.05), rtol=1e-3, atol=0)  # half way down
    # A cosine is symmetric about its middle, falls throughout, and would be at zero one step later.
    torch.testing.assert_close(rates[5:] + rates[5:].flip(0), torch.full((15,), 0.1), rtol=1e-3, atol=0)
    assert bool((rates[4:].diff() < 0).all())
    assert rates[-1] < 0.01 * 0.1


def test_the_gradient_is_clipped(monkeypatch):
    norms = []
    clip = nn.utils.clip_grad_norm_

    def recorded(parameters, bound):
        parameters = list(parameters)
        clip(parameters, bound)
        norms.append(torch.cat([p.grad.flatten() for p in parameters]).norm().item())

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", recorded)
    train(Recorder(), Labelled(), OBJECTIVE, TrainConfig(steps=5, batch_size=8, grad_clip=1e-3, precision="fp32"))
    assert len(norms) == 5
    assert max(norms) <= 1e-3 * (1 + 1e-5)


def test_a_classifier_is_trained_by_the_same_loop():
    """Points left and right of zero, told apart by one layer: the loss goes from ln 2 to that of sure answers."""

    class Sides:
        def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
            y = torch.randint(2, (size,), generator=generator)
            return (2.0 * y - 1)[:, None], {"y": y}

    network = nn.Linear(1, 2)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    config = TrainConfig(steps=100, batch_size=16, learning_rate=0.3, warmup=1, precision="fp32")
    losses = train(network, Sides(), Classification(jitter=0.0, smoothing=0.0), config).losses
    assert losses[0].item() == pytest.approx(math.log(2))
    assert losses[-1] < 0.01


def test_bfloat16_keeps_weights_in_float32():
    seen = []

    class Network(Recorder):
        def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            out = self.layer(xt)
            seen.append((xt.dtype, out.dtype))
            return out

    config = TrainConfig(steps=3, batch_size=8, precision="bf16")
    result = train(Network(), Labelled(), OBJECTIVE, config)
    assert seen == [(torch.float32, torch.bfloat16)] * 3
    assert {p.dtype for p in result.ema.parameters()} == {torch.float32}
    assert result.losses.dtype == torch.float32


def test_float16_is_refused_where_there_is_no_cuda():
    with pytest.raises(ValueError, match=r"precision = 'fp16' is for CUDA GPUs, got the device cpu; .* use 'auto'"):
        train(Recorder(), Labelled(), OBJECTIVE, TrainConfig(steps=3, batch_size=8, precision="fp16"))


def test_in_float16_the_loop_loses_what_it_loses_in_float32(monkeypatch):
    """On a CPU, which can, though slowly. The first loss is that of float32 to the 2⁻¹¹ of rounding; some steps are
    then left out until the scale fits, which 200 steps have made good."""
    networks = [MLP(dim=2, classes=5), MLP(dim=2, classes=5)]
    networks[1].load_state_dict(networks[0].state_dict())
    options = {"steps": 200, "batch_size": 64, "warmup": 2}
    expected = train(networks[0], Labelled(), OBJECTIVE, TrainConfig(precision="fp32", **options))
    for module in (loop, precision):
        monkeypatch.setattr(module, "resolve", lambda asked, device: asked)
    found = train(networks[1], Labelled(), OBJECTIVE, TrainConfig(precision="fp16", **options))
    assert 0 < abs(found.losses[0] / expected.losses[0] - 1) < 2**-9
    ends = [result.losses[-50:].mean().item() for result in (found, expected)]
    assert ends[0] == pytest.approx(ends[1], rel=0.02)
    assert {p.dtype for p in found.ema.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, r"steps must be a whole number of at least 1, got 2\.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, r"batch_size must be a whole number of at least 1, got 1\.5"),
        ({"warmup": -1}, "warmup must be a whole number of at least 0, got -1"),
        ({"warmup": 0.5}, r"warmup must be a whole number of at least 0, got 0\.5"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        ({"learning_rate": -1e-3}, "learning_rate must be positive and finite, got -0.001"),
        ({"grad_clip": 0.0}, "grad_clip must be positive, got 0.0; use math.inf"),
        ({"grad_clip": -1.0}, "grad_clip must be positive, got -1.0"),
        ({"precision": "fp8"}, "precision must be 'auto', 'fp32', 'bf16' or 'fp16', got 'fp8'"),
    ],
)
def test_a_bad_configuration_is_refused(options, message):
    """When it is made, before a data set is loaded for it."""
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)
