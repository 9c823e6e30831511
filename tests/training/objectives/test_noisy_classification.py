"""To name the class of noise: what is drawn, what is compared, and what a file can say."""

import pytest
import torch

from diffusion_book import schedules
from diffusion_book.nn import Classifier, ClassifierConfig
from diffusion_book.training import NoisyClassification, RunConfig
from diffusion_book.training.config import build_network, build_objective

SCHEDULE = schedules.linear(50)


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_loss_is_the_cross_entropy_of_the_noisy_picture_at_its_time(generator):
    """By its definition, in float64: −log p(y|x_t, t) with x_t = a x_0 + b ε."""
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig(channels=4, features=8, classes=5, timed=True)).double().eval()
    x = 2 * torch.rand(6, 1, 8, 8, generator=generator, dtype=torch.float64) - 1
    y = torch.randint(5, (6,), generator=generator)
    batch = NoisyClassification(SCHEDULE).draw(x, {"y": y}, seeded())
    again = seeded()
    t = torch.randint(1, 51, (6,), generator=again)
    assert torch.equal(batch["t"], t)
    eps = batch["eps"] = torch.randn(x.shape, generator=again).double()
    expected = []
    for k in range(6):
        alpha_bar = SCHEDULE.at(t[k]).a ** 2
        xt = alpha_bar.sqrt() * x[k : k + 1] + (1 - alpha_bar).sqrt() * eps[k : k + 1]
        expected.append(-network(xt, t[k : k + 1].double()).log_softmax(1)[0, y[k]])
    torch.testing.assert_close(NoisyClassification(SCHEDULE).loss(network, batch), torch.stack(expected))


def test_held_out_pictures_get_times_that_lie_evenly(generator):
    batch = NoisyClassification(SCHEDULE).draw_held_out(
        torch.zeros(50, 1, 4, 4), {"y": torch.zeros(50, dtype=torch.int64)}, generator
    )
    # Of 50 equally likely ranges one each: the sorted times are the 50 steps, up to the luck of finding the ranges.
    assert (batch["t"].sort().values - torch.arange(1, 51)).abs().max() <= 2


def test_without_labels_it_is_refused(generator):
    with pytest.raises(ValueError, match="a classifier needs labels, and this data has none"):
        NoisyClassification(SCHEDULE).draw(torch.zeros(2, 1, 4, 4), {}, generator)


def test_the_kind_goes_with_a_network_that_is_told_the_time():
    noisy = {"kind": "noisy-classification", "schedule": "linear", "T": 50}
    config = RunConfig(network={"kind": "classifier", "timed": True, "channels": 4}, objective=noisy)
    objective = build_objective(config, build_network(config, Labelled()))
    assert isinstance(objective, NoisyClassification)
    assert objective.T == 50
    assert RunConfig.from_dict(config.to_dict()) == config
    for timed, kind in ((False, noisy), (True, {"kind": "classification"})):
        with pytest.raises(ValueError, match=f"told the time where it sees noise: for {kind['kind']} change network"):
            RunConfig(network={"kind": "classifier", "timed": timed}, objective=kind)
    with pytest.raises(ValueError, match="unknown times 'often'"):
        RunConfig(network={"kind": "classifier", "timed": True}, objective={**noisy, "times": "often"})
    with pytest.raises(ValueError, match="unknown schedule 'cosin'"):
        RunConfig(network={"kind": "classifier", "timed": True}, objective={**noisy, "schedule": "cosin"})


class Labelled:
    """Pictures of ten classes, by their shape."""

    shape, classes = (1, 8, 8), 10
