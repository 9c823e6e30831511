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


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([1, 2]), r"expected points \[B, 2\], got shape \(2, 3\)"),
        (torch.zeros(2), torch.tensor([1, 2]), r"expected points \[B, 2\], got shape \(2,\)"),
        (torch.zeros(2, 1, 2), torch.tensor([1, 2]), r"expected points \[B, 2\], got shape \(2, 1, 2\)"),
        (torch.zeros(2, 2).long(), torch.tensor([1, 2]), "points must be floating point, got torch.int64; use .float"),
        (torch.zeros(2, 2), torch.tensor([1]), r"one time for each of the 2 points, got shape \(1,\)"),
        (torch.zeros(2, 2), torch.tensor(1), r"one time for each of the 2 points, got shape \(\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, t, message):
    """One time would spread over all points in silence."""
    with pytest.raises(ValueError, match=message):
        MLP()(x, t)


@pytest.mark.parametrize(("name", "least"), [("dim", 1), ("width", 1), ("depth", 1), ("classes", 0)])
def test_a_size_that_is_none_is_refused(name, least):
    for value in (least - 1, -3, 1.5):
        with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least {least}, got {value}$"):
            MLP(**{name: value})


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


@pytest.mark.parametrize("t", [5, None])
def test_a_time_that_is_no_tensor_is_refused(t):
    with pytest.raises(ValueError, match=rf"one time for each of the 2 points, got {t}; pass a tensor \[2\]"):
        MLP()(torch.zeros(2, 2), t)
