"""To name the class: cross-entropy of pictures that moved a little."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_book.data.augment import move
from diffusion_book.nn import Classifier, ClassifierConfig
from diffusion_book.training import Classification


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, generator: torch.Generator, side: int = 8) -> Tensor:
    return 2 * torch.rand(n, 1, side, side, generator=generator) - 1


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


def test_a_classifier_without_labels_is_refused(generator):
    with pytest.raises(ValueError, match="a classifier needs labels, and this data has none"):
        Classification().draw(images(2, generator), {}, generator)


def test_pictures_move_as_the_generator_says(generator):
    x, y = images(5, generator), torch.arange(5)
    batch = Classification(jitter=0.5).draw(x, {"y": y}, seeded())
    assert torch.equal(batch["x0"], move(x, 0.5, seeded()))
    assert batch["y"] is y


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jitter": -1.0}, "jitter must be at least 0 and finite, got -1.0; 0 leaves images alone"),
        ({"jitter": math.nan}, "jitter must be at least 0 and finite, got nan"),
        ({"smoothing": 1.5}, r"smoothing is a share in \[0, 1\], got 1.5"),
        ({"smoothing": math.nan}, r"smoothing is a share in \[0, 1\], got nan"),
    ],
)
def test_a_bad_objective_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Classification(**options)
