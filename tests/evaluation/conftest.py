"""What the tests of evaluation share: digits, and a small classifier that has learnt them in a few seconds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from _support.reports import ORIGIN, with_copies
from diffusion_book import data
from diffusion_book.data import Images
from diffusion_book.evaluation import Extractor, Report, evaluate, from_classifier
from diffusion_book.nn import Classifier, ClassifierConfig


@pytest.fixture(scope="session")
def train() -> Images:
    return data.load("mnist-5k", "train")


@pytest.fixture(scope="session")
def test() -> Images:
    return data.load("mnist-5k", "test")


@pytest.fixture(scope="session")
def classifier(train) -> Classifier:
    """About 95 % right on the test digits."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(ClassifierConfig(channels=8, features=32))
    optimiser = torch.optim.Adam(network.parameters(), 4e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(80):
        x, conditions = train.batch(64, generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), conditions["y"]).backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="session")
def extractor(classifier) -> Extractor:
    return from_classifier(classifier, "test-classifier", accuracy=0.9)


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """Draws features [n, D] from N(mean, F Fᵀ)."""

    def draw(n: int, factor: Tensor, mean: Tensor | float, generator: torch.Generator) -> Tensor:
        z = torch.randn(n, factor.shape[1], generator=generator, dtype=torch.float64)
        return z @ factor.mT + mean

    return draw


@pytest.fixture(scope="session")
def samples(test) -> torch.Tensor:
    """400 noisy digits in no order."""
    generator = torch.Generator().manual_seed(3)
    x = test.x[torch.randperm(500, generator=generator)[:400]]
    return (x + 0.6 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


@pytest.fixture(scope="session")
def report(samples, train, test, extractor, tmp_path_factory) -> Report:
    x = with_copies(samples, train)
    labels = torch.arange(400) % 10
    folder = tmp_path_factory.mktemp("reference")
    return evaluate(x, train, test, extractor, ORIGIN, labels, shown=4, kept=50, accuracy_steps=2, folder=folder)
