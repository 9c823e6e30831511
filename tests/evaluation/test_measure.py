"""What a report measures: every number is what the room's functions give, and stands beside what real images get."""

import dataclasses
import math
import statistics
import weakref

import pytest
import torch

from _support.reports import ORIGIN, with_copies
from diffusion_book.data import Images
from diffusion_book.data.images import from_uint8, to_uint8
from diffusion_book.evaluation import (
    Moments,
    classification_accuracy_score,
    evaluate,
    extract,
    frechet_distance,
    moments,
    nearest,
    pixels,
    precision_recall,
)


def test_the_distance_is_that_of_all_samples_against_all_of_the_reference(report, samples, train, extractor):
    x = with_copies(samples, train)
    expected = frechet_distance(moments(extractor, x), moments(extractor, train.x))
    first = report.measures[0]
    assert (first.name, report.name) == ("FCD-MNIST-5K", "FCD-MNIST-5K")
    assert first.value == pytest.approx(expected, rel=1e-6)
    assert (first.n, first.n_reference, report.n) == (400, 4500, 400)


def test_the_floor_is_of_as_many_real_images(report, train, test, extractor):
    pool = torch.cat([extract(extractor, train.x), extract(extractor, test.x)])
    expected = []
    for seed in (0, 1, 2):
        order = torch.randperm(5000, generator=torch.Generator().manual_seed(seed))
        parts = [Moments.of(pool[index], extractor) for index in (order[:400], order[400:4900])]
        expected.append(frechet_distance(*parts))
    floor = report.measures[0].real
    assert floor.each == pytest.approx(expected, rel=1e-6)
    assert floor.mean == pytest.approx(statistics.fmean(expected))
    assert floor.sd == pytest.approx(statistics.stdev(expected))
    assert report.measures[0].n_real_reference == 4500
    assert floor.mean < report.measures[0].value


def test_all_measures_are_there_with_their_floors(report):
    found = {m.name: m for m in report.measures}
    assert list(found) == [
        "FCD-MNIST-5K",
        "KCD-MNIST-5K",
        "precision (k = 3)",
        "recall (k = 3)",
        "density (k = 5)",
        "coverage (k = 5)",
    ]
    for name, measure in found.items():
        assert len(measure.real.each) == 3
        assert measure.lower_is_better == ("CD" in name)
        better = measure.value > measure.real.mean if measure.lower_is_better else measure.value < measure.real.mean
        assert better, f"{name}: real images must be better than noisy ones"
        assert measure.n == 400
    kernel = found["KCD-MNIST-5K"]
    assert kernel.interval[0] < kernel.value < kernel.interval[1]


def test_pairs_are_drawn_from_all_classes(report, samples, train, extractor):
    """The training set is sorted by digit: its first 400 images are all zeros."""
    x = with_copies(samples, train)
    ours, learnt = (
        extract(extractor, part)[torch.randperm(len(part), generator=torch.Generator().manual_seed(0))][:400]
        for part in (x, train.x)
    )
    found = {m.name: m.value for m in report.measures}
    expected = precision_recall(ours, learnt)
    assert (found["precision (k = 3)"], found["recall (k = 3)"]) == pytest.approx(expected, abs=0.006)


def test_the_yardsticks_rise_with_noise(report, train, test, extractor):
    assert [y.noise for y in report.yardsticks] == [0.0, 0.05, 0.1]
    values = [y.value for y in report.yardsticks]
    assert values == sorted(values)
    index = torch.randperm(500, generator=torch.Generator().manual_seed(0))[:400]
    clean = frechet_distance(moments(extractor, test.x[index]), moments(extractor, train.x))
    assert values[0] == pytest.approx(clean, rel=1e-6)
    assert report.yardsticks[0].n == 400


def test_copies_and_nearest_images(report, samples, train, extractor):
    assert report.memorisation_n == {"features": 400, "pixels": 50}
    assert report.memorisation["pixels"].copies == pytest.approx(2 / 50)
    assert report.memorisation["features"].copies == pytest.approx(2 / 400)
    pictures = report.pictures
    assert torch.equal(pictures.by_pixels[:2], train.x[[7, 3000]])
    assert torch.equal(pictures.by_features[:2], train.x[[7, 3000]])
    stored = from_uint8(to_uint8(samples[2:4]))
    assert torch.equal(pictures.samples[2:], stored)
    assert torch.equal(pictures.by_pixels[2:], train.x[nearest(stored, train.x).which[:, 0]])
    of_features = nearest(extract(extractor, samples[2:4]), extract(extractor, train.x)).which[:, 0]
    assert torch.equal(pictures.by_features[2:], train.x[of_features])


def test_batches_give_the_same_report(report, samples, train, test, extractor, tmp_path):
    x = with_copies(samples, train)
    labels = torch.arange(400) % 10
    options = {"shown": 4, "kept": 50, "accuracy_steps": 2, "folder": tmp_path}
    found = evaluate(iter(x.split(30)), train, test, extractor, ORIGIN, labels, **options)
    assert found.accuracy_score == report.accuracy_score
    for ours, theirs in zip(found.measures, report.measures):
        assert (ours.value, *ours.real.each) == pytest.approx((theirs.value, *theirs.real.each), rel=1e-5)
    assert torch.equal(found.pictures.samples, report.pictures.samples)


def test_the_accuracy_score_is_of_images_as_a_file_holds_them(report, samples, train, test):
    stored = from_uint8(to_uint8(with_copies(samples, train)))
    expected = classification_accuracy_score(stored, torch.arange(400) % 10, test, steps=2)
    assert report.accuracy_score["samples"] == expected


@pytest.mark.parametrize("labels", [None, torch.arange(400) % 10], ids=["without labels", "with labels"])
def test_batches_are_let_go_once_they_are_measured(labels, samples, train, test, extractor, tmp_path):
    """An array lives as long as any tensor, or part of one, that shares its memory."""
    arrays: list[weakref.ref] = []

    def one(x: torch.Tensor) -> torch.Tensor:
        array = x.numpy().copy()
        arrays.append(weakref.ref(array))
        return torch.from_numpy(array)

    def sampled():
        for x in samples.split(20):
            yield one(x)
            assert sum(array() is not None for array in arrays) <= 2, "batches are kept"

    options = {"shown": 4, "kept": 50, "accuracy_steps": 1, "folder": tmp_path}
    assert evaluate(sampled(), train, test, extractor, ORIGIN, labels, **options).n == 400
    assert len(arrays) == 20


def test_colour_and_another_extractor(generator, tmp_path):
    def colours(n: int) -> torch.Tensor:
        return torch.rand(n, 3, 4, 4, generator=generator) * 2 - 1

    train, test = Images(colours(120), {}, "patches/train"), Images(colours(90), {}, "patches/test")
    found = evaluate(colours(80), train, test, pixels((3, 4, 4)), ORIGIN, folder=tmp_path)
    assert found.name == "Fréchet distance (pixels 3×4×4)"
    assert found.pictures.by_pixels.shape == (10, 3, 4, 4)
    assert not any(math.isnan(m.value) for m in found.measures)
    assert "right on held-out" not in found.to_markdown()


@pytest.mark.parametrize(
    ("name", "expected"), [("cifar10/train", "Fréchet distance (eyes)"), ("folder:patches", "FID-80")]
)
def test_a_part_of_a_training_set_gives_no_fid(name, expected, generator, tmp_path):
    """Of CIFAR-10's 50,000 images 120 are none; of a folder all are there."""

    def colours(n: int) -> torch.Tensor:
        return torch.rand(n, 3, 4, 4, generator=generator) * 2 - 1

    eyes = dataclasses.replace(pixels((3, 4, 4)), name="eyes", kind="inception")
    train, test = Images(colours(120), {}, name), Images(colours(90), {}, "patches/test")
    assert evaluate(colours(80), train, test, eyes, ORIGIN, folder=tmp_path).name == expected


def test_bad_input_is_told(samples, train, test, extractor, tmp_path):
    with pytest.raises(ValueError, match="at least three different seeds"):
        evaluate(samples, train, test, extractor, ORIGIN, seeds=(0, 1, 1), folder=tmp_path)
    with pytest.raises(ValueError, match="one int64 label for each of the 400 samples"):
        evaluate([samples], train, test, extractor, ORIGIN, torch.zeros(399).long(), kept=5, folder=tmp_path)
    with pytest.raises(ValueError, match=r"one int64 label for each of the 400 samples is needed, .* \(401,\)"):
        evaluate(samples.split(7), train, test, extractor, ORIGIN, torch.zeros(401).long(), kept=5, folder=tmp_path)
    with pytest.raises(ValueError, match="must come as tensors"):
        evaluate([samples.numpy()], train, test, extractor, ORIGIN, folder=tmp_path)
    with pytest.raises(ValueError, match="must lie in"):
        evaluate(samples * 2, train, test, extractor, ORIGIN, folder=tmp_path)

    def asked():
        pytest.fail("minutes were spent")
        yield samples

    for labels, message in (
        (torch.zeros(400), r"each sample is needed, got torch\.float32"),
        (torch.zeros(400, 1).long(), r"each sample is needed, got torch\.int64 of shape \(400, 1\)"),
        (torch.tensor(0), "each sample is needed"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(asked(), train, test, extractor, ORIGIN, labels, folder=tmp_path)
    bare = Images(test.x, {}, "bare/test")
    with pytest.raises(ValueError, match="bare/test has no labels"):
        evaluate(asked(), train, bare, extractor, ORIGIN, torch.zeros(400).long(), folder=tmp_path)
    unread = dataclasses.replace(extractor, function=lambda x: pytest.fail("minutes were spent"))
    with pytest.raises(ValueError, match=r"each of the 400 samples is needed, .* \(399,\)"):
        evaluate(samples, train, test, unread, ORIGIN, torch.zeros(399).long(), folder=tmp_path)
    unmeasured = dataclasses.replace(extractor, name="seen", sha256="1" * 64)
    folder = tmp_path / "empty"
    with pytest.raises(ValueError, match="each of the 400 samples is needed"):
        evaluate([samples], train, test, unmeasured, ORIGIN, torch.zeros(399).long(), folder=folder)
    assert not folder.exists(), "the reference was measured first"
    bare = Images(train.x, {}, "bare/train")
    with pytest.raises(ValueError, match="bare/train has no labels"):
        evaluate(samples, bare, test, extractor, ORIGIN, torch.zeros(400).long(), kept=5, folder=tmp_path)


def test_a_set_of_snow_is_measured(generator, tmp_path):
    """No picture has a dark pixel, and what a right model draws has none either."""
    snow = from_uint8(torch.randint(180, 256, (100, 3, 4, 4), generator=generator).byte())
    train, test = Images(snow[:60], {}, "snow"), Images(snow[60:], {}, "more snow")
    drawn = (snow[:50] + 0.003).clamp(-1, 1)
    found = evaluate(drawn, train, test, pixels((3, 4, 4)), ORIGIN, folder=tmp_path)
    assert (found.n, found.memorisation["pixels"].copies) == (50, 1)  # as bytes they are the training images
    with pytest.raises(ValueError, match="must fill"):
        evaluate(drawn, Images(-snow[:60], {}, "night"), test, pixels((3, 4, 4)), ORIGIN, folder=tmp_path)


def test_mirrored_copies_are_found_where_a_network_learnt_from_mirrored_images(generator, tmp_path):
    real = Images(from_uint8(torch.randint(256, (120, 3, 4, 4), generator=generator).byte()), {}, "folder:mine")
    other = Images(from_uint8(torch.randint(256, (60, 3, 4, 4), generator=generator).byte()), {}, "folder:others")
    mirror = real.x[:60].flip(3)
    for mirrored in (False, True):
        found = evaluate(mirror, real, other, pixels((3, 4, 4)), ORIGIN, mirrored=mirrored, folder=tmp_path)
        for kind in ("pixels", "features"):
            assert found.memorisation[kind].copies == float(mirrored)
        assert bool(torch.equal(found.pictures.by_pixels, found.pictures.samples)) == mirrored
        assert bool(torch.equal(found.pictures.by_features, found.pictures.samples)) == mirrored
