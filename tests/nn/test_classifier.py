"""The classifier: shapes, any size of image, features that feed the head, bad input."""

import math

import pytest
import torch

from diffusion_book.nn import Classifier, ClassifierConfig, describe


@pytest.fixture
def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(channels=4, features=12, classes=7)).eval()


@pytest.mark.parametrize("side", [8, 28, 33])
def test_any_size_of_image_gives_features_and_logits(network, side):
    x = torch.rand(3, 1, side, side) * 2 - 1
    assert network.features(x).shape == (3, 12)
    assert network(x).shape == (3, 7)


def test_the_logits_are_the_head_of_the_features(network):
    x = torch.rand(5, 1, 28, 28) * 2 - 1
    assert torch.equal(network(x), network.head(network.features(x)))
    assert network.features(x).min() >= 0


def test_in_eval_mode_an_image_does_not_depend_on_its_neighbours(network):
    x = torch.rand(5, 1, 28, 28) * 2 - 1
    assert torch.allclose(network.features(x)[2:3], network.features(x[2:3]), atol=1e-6)


def test_it_learns(network):
    """Bright or dark: two classes that any classifier must tell apart after a few steps."""
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        y = torch.randint(2, (32,), generator=generator)
        x = torch.randn(32, 1, 12, 12, generator=generator) + y[:, None, None, None] * 2
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    assert (network(x).argmax(1) == y).float().mean() > 0.9


def test_bad_input_is_told():
    with pytest.raises(ValueError, match=r"expected images \[B, 1, H, W\], got shape \(2, 3, 8, 8\)"):
        Classifier(ClassifierConfig(channels=4))(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"images must be floating point, got torch.int64; use .float\(\), and scale"):
        Classifier(ClassifierConfig(channels=4))(torch.zeros(2, 1, 8, 8, dtype=torch.long))


@pytest.mark.parametrize("name", ["image_channels", "channels", "features", "classes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan])
def test_a_size_that_is_none_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least 1, got {value}$"):
        ClassifierConfig(**{name: value})


# With a time


@pytest.fixture
def timed() -> Classifier:
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig(channels=4, features=12, classes=7, timed=True)).eval()
    for parameter in network.parameters():  # fresh weights hear next to nothing of anything
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def test_the_time_is_heard_and_each_example_has_its_own(timed):
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([1.0, 500.0, 1000.0])
    found = timed(x, t)
    assert found.shape == (3, 7)
    for k in range(3):
        torch.testing.assert_close(found[k : k + 1], timed(x[k : k + 1], t[k : k + 1]))
    assert not torch.allclose(timed(x[:1], t[:1]), timed(x[:1], t[2:]), atol=1e-3)


def test_without_a_time_pictures_are_taken_to_be_clean(timed):
    x = torch.rand(3, 1, 28, 28) * 2 - 1
    assert torch.equal(timed(x), timed(x, torch.zeros(3)))


def test_log_p_can_be_differentiated_by_the_noisy_picture(timed):
    """What guides: the gradient against the difference of two logits, in float64."""
    timed = timed.double()
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    t = torch.tensor([300.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(timed(x, t).log_softmax(1)[0, 2], x)
    step = 1e-6 * torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    up, down = (timed(x + sign * step, t).log_softmax(1)[0, 2] for sign in (1, -1))
    torch.testing.assert_close((up - down).detach() / 2, (gradient * step).sum(), rtol=1e-4, atol=1e-12)


def test_a_time_for_a_classifier_that_is_told_none_is_refused(network):
    with pytest.raises(ValueError, match="is told no time; leave t out, or timed on"):
        network(torch.zeros(1, 1, 8, 8), torch.zeros(1))


def test_a_classifier_without_a_time_is_described_as_before(network, timed):
    assert "timed" not in describe(network)
    assert describe(timed)["timed"] is True
