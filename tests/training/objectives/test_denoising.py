"""To denoise: that nothing random is left to the loss, that it is the loss of the book, and what a file can say."""

import math

import pytest
import torch
from torch import Tensor, nn

from diffusion_book import losses, schedules
from diffusion_book.losses import min_snr, simple_loss
from diffusion_book.nn import UNet, UNetConfig
from diffusion_book.training import Denoising, DenoisingConfig

SCHEDULE = schedules.linear(50)


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Affine(nn.Module):
    """A network that uses its picture, its time and its label."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        label = torch.zeros(len(xt)) if y is None else y
        return self.scale * xt + (0.01 * t + 0.1 * label)[:, None, None, None].to(xt)


def images(n: int, generator: torch.Generator, side: int = 8) -> Tensor:
    return 2 * torch.rand(n, 1, side, side, generator=generator) - 1


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_everything_random_is_drawn_from_one_generator_in_this_order(dropout, generator):
    """Time, noise, what is dropped; the loss is then `simple_loss` of what was drawn."""
    x, y = images(16, generator), torch.randint(5, (16,), generator=generator)
    objective = Denoising(SCHEDULE, nothing={"y": torch.tensor(5)}, dropout=dropout)
    batch = objective.draw(x, {"y": y}, seeded(7))
    again = seeded(7)
    t = torch.randint(1, 51, (16,), generator=again)
    eps = torch.randn(x.shape, generator=again)
    told = torch.where(torch.rand(16, generator=again) < dropout, 5, y)
    for name, expected in (("x0", x), ("t", t), ("eps", eps), ("y", told)):
        assert torch.equal(batch[name], expected), name
    loss = objective.loss(Affine(), batch)
    assert loss.shape == (16,)
    assert torch.equal(loss, simple_loss(Affine(), SCHEDULE, x, t, eps, "v", {"y": told}))


def test_schedule_prediction_weight_and_times_are_the_ones_asked_for(generator):
    x, network = images(32, generator), Affine()
    objective = Denoising(SCHEDULE, "eps", min_snr(), losses.draw_logit_normal_times)
    batch = objective.draw(x, {}, seeded())
    again = seeded()
    t = losses.draw_logit_normal_times(SCHEDULE, 32, again)
    eps = torch.randn(x.shape, generator=again)
    assert torch.equal(batch["t"], t)
    assert torch.equal(batch["eps"], eps)
    expected = simple_loss(network, SCHEDULE, x, t, eps, "eps", weight=min_snr())
    assert torch.equal(objective.loss(network, batch), expected)


def test_a_batch_can_be_cut(generator):
    """All that is random is in the batch: the losses of its parts are the parts of its losses."""
    objective = Denoising(SCHEDULE, nothing={"y": torch.tensor(5)}, dropout=0.3)
    conditions = {"y": torch.randint(5, (12,), generator=generator)}
    batch = objective.draw(images(12, generator), conditions, generator)
    assert {name: len(values) for name, values in batch.items()} == dict.fromkeys(("x0", "t", "eps", "y"), 12)
    whole = objective.loss(Affine(), batch)
    parts = [objective.loss(Affine(), {k: v[i : i + 4] for k, v in batch.items()}) for i in (0, 4, 8)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_network_is_told_what_is_asked_for_and_all_of_it_where_nothing_is(generator):
    x, conditions = images(4, generator), {"y": torch.arange(4), "context": torch.zeros(4, 2, 3)}
    names = ("x0", "t", "eps")
    assert set(Denoising(SCHEDULE).draw(x, conditions, generator)) == {*names, "y", "context"}
    assert set(Denoising(SCHEDULE, told=("y",)).draw(x, conditions, generator)) == {*names, "y"}
    assert set(Denoising(SCHEDULE, told=()).draw(x, conditions, generator)) == set(names)


def test_dropping_is_refused_where_nothing_says_nothing():
    with pytest.raises(
        ValueError, match=r"dropout needs to know what says nothing, such as nothing=\{\"y\": torch.tensor\(10\)\}"
    ):
        Denoising(SCHEDULE, dropout=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.5}, r"dropout is a share in \[0, 1\], got 1.5"),
        ({"dropout": -0.1}, r"dropout is a share in \[0, 1\], got -0.1"),
        ({"prediction": "epsilon"}, r"unknown prediction 'epsilon' \(did you mean 'eps'\?\); choose one of eps, x0, v"),
    ],
)
def test_a_bad_objective_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Denoising(SCHEDULE, nothing={"y": torch.tensor(5)}, **options)


@pytest.mark.parametrize(
    ("schedule", "draw_times"),
    [
        (schedules.by_name("flow"), losses.draw_times),
        (schedules.by_name("flow"), losses.draw_logit_normal_times),
        (SCHEDULE, losses.draw_times),
    ],
    ids=["uniform", "logit-normal", "steps"],
)
def test_held_out_times_have_the_distribution_of_training_and_lie_evenly_in_it(schedule, draw_times):
    """No mean of them strays as far as one of independent times, and their mean is that of training."""
    objective, B, many = Denoising(schedule, draw_times=draw_times), 32, 200
    x0, generator = torch.zeros(B, 1, 2, 2), seeded()
    even = torch.stack([objective.draw_held_out(x0, {}, generator)["t"].double() for _ in range(many)])
    free = torch.stack([objective.draw(x0, {}, generator)["t"].double() for _ in range(many)])
    assert even.mean(1).std() < free.mean(1).std() / 3
    assert abs(even.mean() - free.mean()) < 5 * free.std() / free.numel() ** 0.5
    for share in (
        0.1,
        0.5,
        0.9,
    ):  # the quantiles, by their number above the training's, within five binomial deviations
        above = float((even > free.quantile(share)).double().mean())
        assert (
            abs(above - float((free > free.quantile(share)).double().mean()))
            < 5 * (share * (1 - share) / even.numel()) ** 0.5
        )
    assert (
        abs(torch.corrcoef(torch.stack([even.flatten(), torch.arange(B).double().repeat(many)]))[0, 1])
        < 5 / even.numel() ** 0.5
    )


def test_a_held_out_batch_is_otherwise_drawn_as_one_of_training():
    objective = Denoising(SCHEDULE, nothing={"y": torch.tensor(3)}, dropout=0.5)
    x0, y = torch.randn(400, 1, 2, 2, generator=seeded(1)), torch.arange(400) % 3
    batch = objective.draw_held_out(x0, {"y": y}, seeded())
    assert set(batch) == {"x0", "t", "eps", "y"}
    assert torch.equal(batch["x0"], x0)
    assert batch["t"].dtype == torch.int64
    assert abs(float((batch["y"] == 3).double().mean()) - 0.5) < 5 * 0.5 / 400**0.5


# As a file describes it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": "normal"}, r"unknown times 'normal' \(did you mean 'logit-normal'\?\); choose one of uniform"),
        ({"times": "log"}, "unknown times 'log'; choose one of uniform, logit-normal, late, sigma"),
        ({"weight": "snr"}, r"unknown weight 'snr' \(did you mean 'min-snr'\?\); choose one of none, min-snr, p2"),
        ({"condition_dropout": math.nan}, r"condition_dropout is a share in \[0, 1\], got nan"),
        ({"condition_dropout": 1.5}, r"condition_dropout is a share in \[0, 1\], got 1.5"),
        ({"prediction": "epsilon"}, "unknown prediction 'epsilon'"),
        ({"schedule": "cosin"}, r"unknown schedule 'cosin' \(did you mean 'cosine'\?\)"),
        ({"schedule": "flow", "T": 10}, "'flow' is continuous and takes no T, got 10"),
    ],
)
def test_a_bad_description_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DenoisingConfig(**options)


def test_a_description_becomes_what_it_names():
    config = DenoisingConfig("linear", 20, "eps", "logit-normal", "p2", 0.1)
    found = config.build(UNet(UNetConfig.named("tiny", classes=4)))
    assert (found.prediction, found.told, found.nothing, found.dropout) == ("eps", ("y",), {"y": torch.tensor(4)}, 0.1)
    assert found.draw_times is losses.draw_logit_normal_times
    t = torch.arange(1, 21)
    torch.testing.assert_close(found.schedule.at(t).a, schedules.linear(20).at(t).a)
    torch.testing.assert_close(found.weight(found.schedule, t), losses.p2()(found.schedule, t))
    assert DenoisingConfig().build_schedule().T == 1000


@pytest.mark.parametrize("config", [{"classes": 0}, {"classes": 4, "no_label": False}])
def test_nothing_is_dropped_that_the_network_cannot_be_told(config):
    found = DenoisingConfig(condition_dropout=0.1).build(UNet(UNetConfig.named("tiny", **config)))
    assert (found.nothing, found.dropout) == ({}, 0.0)
    assert found.told == (("y",) if config["classes"] else ())
