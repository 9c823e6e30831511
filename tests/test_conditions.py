"""What a network is told: checked, cut and dropped, whatever its shape."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from diffusion_book import denoise, losses, schedules
from diffusion_book.conditions import checked, drop, take

Y = torch.arange(10_000) % 5
NO_LABEL = {"y": torch.tensor(5)}


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_the_share_of_dropped_labels(share, generator):
    y = drop({"y": Y}, NO_LABEL, share, generator)["y"]
    dropped = y == 5
    assert torch.equal(y[~dropped], Y[~dropped])
    assert dropped.float().mean().item() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / len(Y)))


def test_an_example_loses_all_that_can_be_dropped_or_none_of_it(generator):
    """A text and its mask go together, and what nothing stands for stays."""
    n = 1000
    words, mask, control = (
        torch.rand(n, 4, 3, generator=generator),
        torch.ones(n, 4, dtype=torch.bool),
        torch.ones(n, 2),
    )
    nothing = {"context": torch.full((4, 3), -1.0), "context_mask": torch.tensor([True, False, False, False])}
    told = drop({"context": words, "context_mask": mask, "control": control}, nothing, 0.5, generator)
    dropped = told["context"].eq(-1).all(2).all(1)
    assert 400 < int(dropped.sum()) < 600  # six standard deviations
    assert torch.equal(told["context"][~dropped], words[~dropped])
    assert torch.equal(told["context_mask"].sum(1), torch.where(dropped, 1, 4))
    assert told["control"] is control


def test_where_nothing_can_be_dropped_no_random_number_is_drawn(generator):
    before = generator.get_state()
    assert drop({}, NO_LABEL, 0.5, generator) == {}
    assert drop({"y": Y}, {}, 0.5, generator)["y"] is Y
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("nothing", "message"),
    [
        (
            {"y": torch.tensor(4)},
            "y = 4 is to say nothing, and is also a label of the data; take one that no example has",
        ),
        ({"y": 5}, r"must be a tensor of one example's shape, \(\) for y, .* got 5"),
        ({"y": torch.tensor([5])}, r"must be a tensor of one example's shape, \(\) for y, .* got \(1,\)"),
    ],
)
def test_what_cannot_say_nothing_is_refused(nothing, message, generator):
    with pytest.raises(ValueError, match=message):
        drop({"y": Y}, nothing, 0.1, generator)


def test_rows_of_every_condition_are_taken():
    found = take({"y": torch.tensor([7, 8, 9]), "context": torch.arange(6).reshape(3, 2)}, torch.tensor([2, 0]))
    assert {name: values.tolist() for name, values in found.items()} == {"y": [9, 7], "context": [[4, 5], [0, 1]]}


def network(xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    return xt


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"y": 7}, r'conditions are tensors, one row an example, such as {"y": .* got y = 7'),
        ({"y": [7, 7]}, r"got y = \[7, 7\]"),
        (torch.tensor([7, 7]), 'conditions are tensors by name, such as {"y": y}, got Tensor'),
    ],
)
def test_labels_that_are_no_tensors_by_name_are_refused_wherever_they_come_in(conditions, message):
    schedule, x, t = schedules.linear(10), torch.zeros(2, 3), torch.tensor([1, 2])
    with pytest.raises(ValueError, match=message):
        checked(conditions)
    for make in (denoise.from_network, partial(denoise.from_network, learned_variance=True)):
        with pytest.raises(ValueError, match=message):
            make(network, schedule, "v", conditions)
    with pytest.raises(ValueError, match=message):
        losses.simple_loss(network, schedule, x, t, x, "v", conditions)
    with pytest.raises(ValueError, match=message):
        losses.hybrid_loss(network, schedule, x, t, x, "v", conditions)
