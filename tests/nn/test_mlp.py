"""The small network for points."""

import pytest
import torch

from diffusion_book.nn import MLP


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_output_has_the_shape_of_the_input(dim, classes, generator):
    x = torch.randn(4, dim, generator=generator)
    assert MLP(dim, 16, 2, classes)(x, torch.tensor([1, 2, 3, 4])).shape == x.shape


def test_no_label_is_the_label_after_the_last(generator):
    network = MLP(2, 16, 2, classes=3)
    x, t = torch.randn(4, 2, generator=generator), torch.tensor([1, 2, 3, 4])
    assert torch.equal(network(x, t), network(x, t, torch.full((4,), 3)))
    assert not torch.equal(network(x, t), network(x, t, torch.zeros(4, dtype=torch.long)))


def test_no_label_works_with_real_times():
    assert MLP(2, 16, 1, classes=3)(torch.zeros(2, 2), torch.tensor([0.5, 3.5])).shape == (2, 2)


def test_labels_without_classes_are_refused():
    """They would be ignored, and a conditional model would turn out unconditional."""
    with pytest.raises(ValueError, match=r"no classes \(classes=0\), so it takes no labels y"):
        MLP()(torch.zeros(2, 2), torch.tensor([1, 2]), torch.tensor([0, 1]))


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(ValueError, match=r'labels must lie in 0 … 3 \(3 means "no label"\), got 0 … 4'):
        MLP(classes=3)(torch.zeros(2, 2), torch.tensor([1, 2]), torch.tensor([0, 4]))


def test_every_parameter_gets_a_gradient(generator):
    network = MLP(2, 16, 2, classes=3)
    x = torch.randn(8, 2, generator=generator)
    y = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    network(x, torch.arange(8), y).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_time_matters_and_examples_do_not_see_each_other(generator):
    network = MLP(2, 16, 2)
    x, t = torch.randn(4, 2, generator=generator), torch.tensor([1, 250, 500, 1000])
    together = network(x, t)
    torch.testing.assert_close(torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(4)]), together)
    assert not torch.allclose(network(x[:1], t[1:2]), together[:1])
