"""What a run minimises: that nothing random is left to the loss, and that it is the loss that the book derives."""

import math

import pytest
import torch
from torch import Tensor, nn

from diffusion_book import losses, schedules
from diffusion_book.conditions import Conditions
from diffusion_book.losses import min_snr, simple_loss
from diffusion_book.nn import Classifier, ClassifierConfig
from diffusion_book.training.loop import TrainConfig, train
from diffusion_book.training.objective import Classification, Denoising, flip_half, move, warp

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


# Denoising -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [{}, {"y": torch.tensor(5)}])
def test_the_loss_is_that_of_the_plain_loop(nothing, generator):
    """`train` draws an example, its time, its noise and what is dropped from one generator, in this order."""
    x, y = images(16, generator), torch.randint(5, (16,), generator=generator)

    class Same:
        def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
            return x, {"y": y}

    share = 0.5 if nothing else 0.0
    config = TrainConfig(steps=1, batch_size=16, precision="fp32", condition_dropout=share, seed=7)
    plain = train(Affine(), Same(), SCHEDULE, config, nothing).losses[0]
    objective = Denoising(SCHEDULE, nothing=nothing, dropout=share)
    loss = objective.loss(Affine(), objective.draw(x, {"y": y}, seeded(7)))
    assert loss.shape == (16,)
    assert torch.equal(loss.mean().detach(), plain)


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


# Flips ---------------------------------------------------------------------------------------------------------


def test_each_picture_or_its_mirror_image_half_of_the_time(generator):
    n = 4000
    x = images(n, generator, side=4)
    found = flip_half(x, seeded())
    mirrored = torch.stack([x[..., 3 - column] for column in range(4)], dim=-1)
    left, flipped = ((found == other).flatten(1).all(1) for other in (x, mirrored))
    assert (left ^ flipped).all()
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / n))
    assert torch.equal(found, flip_half(x, seeded()))
    assert not torch.equal(found, flip_half(x, seeded(6)))


def test_the_plain_loop_flips_before_it_draws_anything_else(generator):
    x = images(16, generator)

    class Same:
        def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
            return x, {}

    config = TrainConfig(steps=1, batch_size=16, precision="fp32", seed=7, flip=True)
    plain = train(Affine(), Same(), SCHEDULE, config).losses[0]
    objective, again = Denoising(SCHEDULE), seeded(7)
    flipped = flip_half(x, again)
    assert torch.equal(objective.loss(Affine(), objective.draw(flipped, {}, again)).mean().detach(), plain)


def test_only_images_are_flipped(generator):
    with pytest.raises(ValueError, match=r"only images \[B, C, H, W\] can be flipped, got \[8, 2\]; leave flip out"):
        flip_half(torch.randn(8, 2, generator=generator), generator)


# Classification ------------------------------------------------------------------------------------------------


def test_the_loss_is_cross_entropy_with_smoothed_labels(generator):
    """−Σ q_k log p_k with q = (1 − s) · one-hot + s/K, by its definition in float64."""
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig(channels=4, features=8, classes=5)).eval()
    x, y = images(6, generator), torch.randint(5, (6,), generator=generator)
    loss = Classification(smoothing=0.1).loss(network, {"x0": x, "y": y})
    log_p = network(x).double().log_softmax(1)
    q = 0.9 * torch.eye(5, dtype=torch.float64)[y] + 0.1 / 5
    torch.testing.assert_close(loss.double(), -(q * log_p).sum(1), rtol=1e-5, atol=1e-6)


def test_jitter_zero_leaves_images_as_they_are(generator):
    x, y = images(3, generator), torch.arange(3)
    batch = Classification(jitter=0.0).draw(x, {"y": y}, generator)
    assert batch["x0"] is x
    assert batch["y"] is y
    # The interpolation, too, is then none: float32 places a pixel of 8 to within 1e-6 of a pixel.
    torch.testing.assert_close(move(x, 0.0, generator), x, rtol=0, atol=1e-5)


def test_each_image_moves_its_own_way_within_the_range_and_follows_the_generator(generator):
    x = -torch.ones(200, 1, 28, 28)
    x[:, :, 13:15, 13:15] = 1
    moved = Classification().draw(x, {"y": torch.zeros(200, dtype=torch.int64)}, seeded())["x0"]
    assert torch.equal(moved, move(x, 1.0, seeded()))
    assert not torch.equal(moved, move(x, 1.0, seeded(6)))
    assert float(moved.min()) >= -1.0001
    assert float(moved.max()) <= 1.0001
    # Where the dot's centre of mass went: at most 2 pixels, a tenth more for the scale, each way, and all of them.
    mass = (moved + 1) / (moved + 1).sum((2, 3), keepdim=True)
    place = torch.arange(28) - 13.5
    offset = torch.stack([(mass * place).sum((1, 2, 3)), (mass * place[:, None]).sum((1, 2, 3))])
    assert float(offset.abs().max()) < 2 * (1 + 0.1 + math.radians(10)) / 0.9
    # Uniform on ±2: the standard deviation is 2/√3 = 1.15; of 200 its standard error is about 4 %.
    assert offset.std(1).tolist() == pytest.approx([2 / 3**0.5] * 2, rel=0.2)
    assert abs(float(torch.corrcoef(offset)[0, 1])) < 4 / 200**0.5


def still(n: int = 2) -> dict[str, Tensor]:
    return {"angle": torch.zeros(n), "scale": torch.ones(n), "right": torch.zeros(n), "down": torch.zeros(n)}


def test_a_known_shift_is_that_shift(generator):
    """A window 2 pixels of 28 to the right shows the picture 2 pixels to the left, and black after it."""
    x = images(2, generator, 28)
    found = warp(x, **{**still(), "right": torch.full((2,), 2 / 14)})
    torch.testing.assert_close(found[..., :-2], x[..., 2:], rtol=0, atol=2e-5)
    torch.testing.assert_close(found[..., -2:], torch.full((2, 1, 28, 2), -1.0), rtol=0, atol=2e-5)
    found = warp(x, **{**still(), "down": torch.tensor([0.0, -3 / 14])})
    torch.testing.assert_close(found[0], x[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(found[1, :, 3:], x[1, :, :-3], rtol=0, atol=2e-5)


def test_a_quarter_turn_and_a_double_window(generator):
    x = images(2, generator, 28)
    found = warp(x, **{**still(), "angle": torch.full((2,), math.pi / 2)})
    # A window that turns clockwise shows a picture that turns against the clock.
    torch.testing.assert_close(found, torch.rot90(x, 1, (2, 3)), rtol=0, atol=1e-4)
    found = warp(x, **{**still(), "scale": torch.full((2,), 2.0)})
    # Every pixel in the middle now lies amid four, and is their mean.
    torch.testing.assert_close(found[..., 7:21, 7:21], nn.functional.avg_pool2d(x, 2), rtol=0, atol=1e-4)
    assert bool((found[..., :6, :] == -1).all())


def test_a_classifier_without_labels_is_refused(generator):
    with pytest.raises(ValueError, match="a classifier needs labels, and this data has none"):
        Classification().draw(images(2, generator), {}, generator)
