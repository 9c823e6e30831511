"""Extractors: what identifies them, that they stream, and that wrong images are told."""

import math

import pytest
import torch
from torch import nn

from diffusion_book import data, evaluation
from diffusion_book.data.images import from_uint8, to_uint8
from diffusion_book.evaluation import Extractor, extract, features, from_classifier, from_module, pixels
from diffusion_book.nn import Classifier, ClassifierConfig, weights_sha256


def images(n: int, generator: torch.Generator, channels: int = 1, side: int = 8) -> torch.Tensor:
    return from_uint8(torch.randint(256, (n, channels, side, side), generator=generator).byte())


@pytest.fixture
def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(channels=2, features=5)).eval()


def test_the_features_are_the_networks_whatever_the_batches(network, generator):
    x = images(23, generator)
    extractor = from_classifier(network, "c", accuracy=0.5)
    expected = network.features(x).detach()
    assert (extractor.dim, extractor.kind, extractor.accuracy) == (5, "classifier", 0.5)
    for given in (x, x.split(4), iter(x.split(7))):
        torch.testing.assert_close(extract(extractor, given, batch_size=5), expected, rtol=1e-5, atol=1e-6)


def test_a_compiled_network_is_the_same_extractor(network, generator):
    """Its hash is of the weights and not of what `torch.compile` calls them, or nothing kept by it would be found."""
    x = images(6, generator)
    plain, compiled = from_classifier(network, "c"), from_classifier(torch.compile(network), "c")
    assert compiled.sha256 == plain.sha256
    assert torch.equal(extract(compiled, x), extract(plain, x))


def test_samples_are_rounded_to_bytes_as_the_data_were(generator):
    x = images(4, generator)
    jittered = (x + 0.003 * (torch.rand(x.shape, generator=generator) - 0.5)).clamp(-1, 1)  # less than half a step
    assert not torch.equal(jittered, x)
    assert torch.equal(pixels((1, 8, 8))(jittered), x.flatten(1))
    assert torch.equal(to_uint8(from_uint8(torch.arange(256).byte())), torch.arange(256).byte())


def test_an_extractor_is_frozen(network, generator):
    x = images(6, generator)
    extractor = from_classifier(network, "c")
    before = extract(extractor, x)
    network.train()
    with torch.no_grad():
        network.body[0].weight.mul_(2)
    assert torch.equal(extract(extractor, x), before)
    assert extractor.sha256 != from_classifier(network, "c").sha256
    assert not before.requires_grad


def test_a_network_in_training_is_copied_in_evaluation(generator):
    x = images(8, generator)
    extractor = from_classifier(Classifier(ClassifierConfig(channels=2, features=5)).train(), "c")
    torch.testing.assert_close(extractor(x)[:2], extractor(x[:2]), rtol=1e-5, atol=1e-6)


def test_the_hash_is_of_names_shapes_and_values(network):
    found = weights_sha256(network)
    assert len(found) == 64
    assert weights_sha256(network.double()) == found
    for change in ("values", "names", "shapes"):
        other = nn.Linear(2, 3, bias=False)
        same = nn.Linear(2, 3, bias=False)
        same.load_state_dict(other.state_dict())
        assert weights_sha256(same) == weights_sha256(other)
        if change == "values":
            with torch.no_grad():
                same.weight[0, 0] += 1e-3
            changed: nn.Module = same
        elif change == "names":
            changed = nn.Sequential(same)
        else:
            changed = nn.Linear(3, 2, bias=False)
            with torch.no_grad():
                changed.weight.copy_(other.weight.reshape(2, 3))
        assert weights_sha256(changed) != weights_sha256(other), change


def test_the_hash_does_not_depend_on_the_order_of_layers():
    one, two = nn.Linear(2, 3), nn.Linear(3, 2)
    found = weights_sha256(nn.ModuleDict({"one": one, "two": two}))
    assert weights_sha256(nn.ModuleDict([("two", two), ("one", one)])) == found


def test_any_module_and_three_channels(generator):
    x = images(9, generator, channels=3)
    extractor = from_module(nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), "linear", 7)
    assert extractor.kind == "other"
    assert extract(extractor, x.split(2)).shape == (9, 7)
    assert "linear (SHA-256 " in extractor.identity
    assert "8 bits" in extractor.identity


def test_samples_that_are_made_while_they_are_read_take_no_memory(generator):
    """Of 300 batches never more than a few exist at once."""
    alive: list[int] = []

    class Counted(torch.Tensor):
        def __del__(self) -> None:
            alive.append(-1)

    def sampled():
        for _ in range(300):
            alive.append(1)
            assert sum(alive) <= 3, "batches are kept"
            yield torch.full((4, 1, 80, 80), -0.5).as_subclass(Counted)

    few = Extractor("mean", "0", 1, lambda x: x.flatten(1).mean(1, keepdim=True).as_subclass(torch.Tensor))
    assert extract(few, sampled()).shape == (1200, 1)


def test_a_bright_batch_is_no_error_but_bright_images_are(generator):
    bright = torch.rand(4, 3, 4, 4, generator=generator)
    extractor = pixels((3, 4, 4))
    assert extract(extractor, [bright, -bright]).shape == (8, 48)
    assert extract(extractor, [-bright, bright]).shape == (8, 48)
    with pytest.raises(ValueError, match="must fill"):
        extract(extractor, [bright, bright])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "float32 in .*uint8"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.float64), "float32 in .*float64"),
        (torch.full((2, 1, 4, 4), 1.2), "must lie in"),
        (torch.full((2, 1, 4, 4), -1.2), "must lie in"),
        (torch.full((2, 1, 4, 4), float("nan")), "must lie in"),
        (torch.full((2, 1, 4, 4), 200.0), "must lie in"),
        (torch.zeros(2, 4, 4), "N, C, H, W"),
        (torch.zeros(0, 1, 4, 4), "no images"),
        ([], "no images"),
        ([torch.zeros(2, 1, 4, 4) - 1, torch.zeros(2, 1, 2, 8)], "all images must be"),
        ([[0.0]], "tensors"),
    ],
)
def test_wrong_images_are_told(x, message):
    with pytest.raises(ValueError, match=message):
        extract(pixels((1, 4, 4)), x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, "must return features"),
        (lambda x: x.flatten(1)[:, :3], "must return features"),
        (lambda x: x.flatten(1) / 0, "NaN or infinity"),
    ],
)
def test_wrong_features_are_told(function, message):
    with pytest.raises(ValueError, match=message):
        extract(Extractor("bad", "0", 16, function), torch.full((2, 1, 4, 4), -0.5))
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got"):
        extract(pixels((1, 4, 4)), torch.full((2, 1, 4, 4), -0.5), batch_size=0)


def test_bright_images_are_measured_where_they_are_known_to_be_bright(generator):
    """Bytes of snow by themselves; floats where the data are snow, and else they are taken for images in [0, 1]."""
    snow = from_uint8(torch.randint(180, 256, (4, 3, 4, 4), generator=generator).byte())
    drawn = (snow + 0.002).clamp(-1, 1)
    extractor = pixels((3, 4, 4))
    assert torch.equal(extract(extractor, snow), snow.flatten(1))
    assert torch.equal(extract(extractor, [drawn], bright=True), snow.flatten(1))
    with pytest.raises(ValueError, match="must fill"):
        extract(extractor, drawn)


@pytest.mark.parametrize("angle", [0.0, 22.5, 30.0, 90.0, 179.0])
def test_a_slope_is_an_edge_of_its_direction(angle):
    """A picture that rises evenly towards an angle, so that every pixel's difference is known."""
    turn = math.radians(angle)
    across, down = torch.arange(16.0).expand(16, 16), torch.arange(16.0).expand(16, 16).T
    slope = 0.01
    x = (slope * (math.cos(turn) * across + math.sin(turn) * down) - 0.1)[None, None]
    found = features._edges(x)[0]
    histogram, colours = found[:128].reshape(8, 4, 4), found[128:].reshape(4, 4)
    inner = histogram[:, 1:-1, 1:-1].square() - 0.1  # at the border the outermost pixel is repeated
    place = angle / 22.5
    low, share = int(place) % 8, place - int(place)
    expected = torch.zeros(8)
    expected[low] += 2 * slope * (1 - share)
    expected[(low + 1) % 8] += 2 * slope * share
    assert torch.allclose(inner, expected[:, None, None].expand_as(inner), atol=1e-6)
    blocks = torch.stack([x[0, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for i in range(4) for j in range(4)])
    assert torch.allclose(colours.flatten(), 0.5 * blocks, atol=1e-6)
    turned = features._edges(-x)[0, :128].square()  # dark on light is light on dark
    assert torch.allclose(turned, found[:128].square(), atol=1e-6)


def test_edges_find_a_copy_that_was_moved_where_pixels_do_not():
    x = data.load("icons", "test").x
    moved = torch.roll(x, (1, 1), (2, 3))
    shares = {}
    for eyes in (evaluation.edges(3), evaluation.pixels((3, 32, 32))):
        which = evaluation.nearest(eyes(moved), eyes(x)).which[:, 0]
        shares[eyes.name] = float((which == torch.arange(len(x))).double().mean())
    assert shares["edges and colours 4×4"] > 0.9 > shares["pixels 3×32×32"] + 0.05


def test_edges_take_any_size_and_grey(generator):
    for shape, dim in (((2, 1, 28, 28), 144), ((2, 3, 5, 7), 176)):
        assert evaluation.edges(shape[1])(torch.rand(shape, generator=generator) * 2 - 1).shape == (2, dim)
