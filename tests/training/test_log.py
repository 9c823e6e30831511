"""Losses on their way to the log: the sums by time, and that nobody waits for a device before a line is written."""

import pytest
import torch

from diffusion_book.training.log import BINS, LossByTime

CPU = torch.device("cpu")


@pytest.mark.parametrize(("T", "draw"), [(20, lambda g: torch.randint(1, 21, (64,), generator=g)), (1.0, torch.rand)])
def test_each_loss_is_counted_in_its_part_of_time(T, draw, generator):
    t = draw(generator) if T == 20 else draw(64, generator=generator).clamp(min=1e-6)
    loss = torch.randn(64, generator=generator)
    log = LossByTime(CPU, T)
    log.add(loss[:40], t[:40])
    log.add(loss[40:], t[40:])
    sums, counts = log.read()
    for k in range(BINS):  # part k is (k T/10, (k + 1) T/10]
        inside = (t.double() > k * T / BINS) & (t.double() <= (k + 1) * T / BINS)
        assert counts[k] == inside.sum()
        torch.testing.assert_close(sums[k], loss.double()[inside].sum(), rtol=1e-12, atol=1e-12)


def test_losses_without_times_are_in_the_first_part(generator):
    log, loss = LossByTime(CPU, None), torch.randn(8, generator=generator)
    log.add(loss, None)
    sums, counts = log.read()
    torch.testing.assert_close(sums[0], loss.double().sum())
    assert counts.tolist() == [8] + [0] * 9
    assert not sums[1:].any()


def test_a_loss_that_is_not_finite_spoils_its_own_part_alone():
    log = LossByTime(CPU, 10)
    log.add(torch.tensor([torch.inf, 2.0]), torch.tensor([1, 5]))
    assert log.read()[0].tolist() == [torch.inf, 0, 0, 0, 2, 0, 0, 0, 0, 0]


def test_what_was_read_can_be_gone_on_from(generator):
    log, again = LossByTime(CPU, 10), LossByTime(CPU, 10)
    log.add(torch.randn(8, generator=generator), torch.arange(8) + 1)
    read = log.read()
    again.reset(read)
    assert torch.equal(again.read(), read)
    log.reset()
    assert not log.read().any()
    assert read.any()


def test_nothing_is_read_from_the_device_before_it_is_asked_for():
    """On a device from which nothing can be read at all: it knows shapes and dtypes, and no numbers."""
    log = LossByTime(torch.device("meta"), 10)
    for _ in range(3):
        log.add(torch.zeros(4, device="meta"), torch.tensor([1, 4, 7, 10]))
    with pytest.raises(NotImplementedError, match="meta"):
        log.read()
