"""The Fréchet distance against closed forms, two reference packages, and what it must notice."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import diffusion_book._torchvision  # noqa: F401  (the packages import torchvision, which may need mending first)
from _support.memory import REFUSED
from diffusion_book.data import Images
from diffusion_book.evaluation import (
    Extractor,
    Moments,
    Origin,
    evaluate,
    extract,
    frechet_distance,
    moments,
    pixels,
)

E = Extractor("features", "0" * 64, 0, lambda x: x)


def given(mean: torch.Tensor, cov: torch.Tensor, n: int = 1000) -> Moments:
    return Moments(n, mean.double(), cov.double() * (n - 1), E.identity)


def spread(D: int, generator: torch.Generator) -> torch.Tensor:
    root = torch.randn(D, D, generator=generator, dtype=torch.float64)
    return root @ root.mT


def test_gaussians_whose_covariances_commute(generator):
    """There tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) = Σ (√λ − √κ)², eigenvalue by eigenvalue."""
    D = 6
    rotation = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    one, two = torch.rand(2, D, generator=generator, dtype=torch.float64)
    gap = torch.randn(D, generator=generator, dtype=torch.float64)
    found = frechet_distance(given(0 * gap, rotation * one @ rotation.mT), given(gap, rotation * two @ rotation.mT))
    expected = float((gap**2).sum() + ((one.sqrt() - two.sqrt()) ** 2).sum())
    assert found == pytest.approx(expected, rel=1e-12)


def test_in_one_dimension():
    a, b = given(torch.tensor([1.0]), torch.tensor([[4.0]])), given(torch.tensor([-2.0]), torch.tensor([[25.0]]))
    assert frechet_distance(a, b) == pytest.approx(9 + 9, rel=1e-14)


@pytest.mark.parametrize("n", [500, 20])
def test_the_reference_packages_agree(n, normal, generator):
    """Also where the covariance is singular, n < D; scipy's sqrtm in pytorch-fid is only good to 1e-6 there."""
    fidelity, fid_score = pytest.importorskip("torch_fidelity.metric_fid"), pytest.importorskip("pytorch_fid.fid_score")
    D = 32
    factors = torch.randn(2, D, D, generator=generator, dtype=torch.float64)
    x, y = normal(n, factors[0], 0.0, generator), normal(n + 7, factors[1], 0.5, generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = frechet_distance(Moments.of(x, E), Moments.of(y, E))
        statistics = [fidelity.fid_features_to_statistics(z) for z in (x, y)]
        theirs = fidelity.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        (mu1, s1), (mu2, s2) = ((s["mu"], s["sigma"]) for s in statistics)
        older = fid_score.calculate_frechet_distance(mu1, s1, mu2, s2)
    assert found == pytest.approx(theirs, rel=1e-12 if n > D else 1e-6)
    assert found == pytest.approx(older, rel=1e-12 if n > D else 1e-3)


def test_a_set_has_no_distance_from_itself(normal, generator):
    x = normal(10, torch.randn(40, 3, generator=generator, dtype=torch.float64), 5.0, generator)
    with pytest.warns(UserWarning, match="10 images of one set for 40 features"):
        assert frechet_distance(Moments.of(x, E), Moments.of(x, E)) < 1e-10


def test_it_is_symmetric(generator):
    a = given(torch.zeros(5), spread(5, generator))
    b = given(torch.ones(5), spread(5, generator))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_moments_in_pieces_and_in_any_order(normal, generator):
    """Far from zero, where the sum of squares would lose all digits."""
    x = normal(101, torch.randn(4, 4, generator=generator, dtype=torch.float64), 1e6, generator)
    whole = Moments.of(x, E, "d")
    parts = [Moments.of(part, E, "d") for part in x.split(13)]
    for order in (parts, parts[::-1]):
        total = order[0]
        for part in order[1:]:
            total = total + part
        assert total.n == 101
        torch.testing.assert_close(total.mean, whole.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(total.cov, torch.cov(x.mT), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(whole.cov, np.cov(x.numpy(), rowvar=False), rtol=1e-9)
    assert whole.data == "d"


def test_moments_of_images_are_those_of_their_features(train, extractor):
    x = train.x[::30]
    found = moments(extractor, x.split(17), "digits", batch_size=10)
    expected = Moments.of(extract(extractor, x), extractor)
    assert (found.n, found.data, found.extractor) == (len(x), "digits", extractor.identity)
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.scatter, expected.scatter)


def test_its_bias_is_that_of_the_number_of_samples(normal, generator):
    """Both sets from N(0, 1) in one dimension: E[d²] = Var(x̄₁ − x̄₂) + E[(s₁ − s₂)²] ≈ 2/n + 1/n."""
    n, draws = 50, 400
    unit = torch.eye(1, dtype=torch.float64)
    found = torch.tensor(
        [frechet_distance(*(Moments.of(normal(n, unit, 0.0, generator), E) for _ in range(2))) for _ in range(draws)]
    )
    assert abs(float(found.mean()) - 3 / n) < 4 * float(found.std()) / math.sqrt(draws) + 1 / n**2


# What it must notice, with our own classifier ------------------------------------------------------------------


@pytest.fixture(scope="module")
def against(train, extractor):
    reference = moments(extractor, train.x, train.name)
    return lambda x: frechet_distance(reference, moments(extractor, x))


def test_it_grows_with_noise(against, test, generator):
    noise = torch.randn(test.x.shape, generator=generator)
    found = [against((test.x + sigma * noise).clamp(-1, 1)) for sigma in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)]
    assert found == sorted(found)
    assert found[-1] > 10 * found[0]


def test_it_grows_with_blur(against, test):
    def blurred(sigma: float) -> torch.Tensor:
        place = torch.arange(-6, 7)
        row = torch.exp(-0.5 * (place / sigma) ** 2)
        row = row / row.sum()
        padded = nn.functional.pad(test.x, (6, 6, 6, 6), value=-1.0)
        wide = nn.functional.conv2d(padded, row.reshape(1, 1, 1, -1))
        return nn.functional.conv2d(wide, row.reshape(1, 1, -1, 1)).clamp(-1, 1)

    found = [against(test.x), *(against(blurred(sigma)) for sigma in (0.5, 0.8, 1.2, 2.0, 3.0))]
    assert found == sorted(found)
    assert found[-1] > 10 * found[0]


def test_it_grows_with_dropped_modes(against, train, test):
    """Classes left out one after the other; the number of images stays the same, with others twice."""
    x, y = torch.cat([test.x, train.x[::5]]), torch.cat([test.conditions["y"], train.conditions["y"][::5]])
    found = []
    for kept in range(10, 0, -1):
        of_kept = x[y < kept]
        found.append(against(of_kept.repeat(10, 1, 1, 1)[:1000]))
    assert found == sorted(found)
    assert found[-1] > 10 * found[0]


# Bad input -------------------------------------------------------------------------------------------------------


def test_other_features_are_refused(train, extractor, generator):
    x = train.x[:50]
    ours = moments(extractor, x)
    theirs = moments(dataclasses.replace(extractor, sha256="0" * 64), x)
    with pytest.raises(ValueError, match="different extractors cannot be compared"):
        frechet_distance(ours, theirs)
    with pytest.raises(ValueError, match="different extractors"):
        ours + theirs
    with pytest.raises(ValueError, match="different extractors"):
        frechet_distance(ours, moments(pixels((1, 28, 28)), x))
    with pytest.raises(ValueError, match="one length, got 3 and 2"):
        frechet_distance(given(torch.zeros(3), torch.eye(3)), given(torch.zeros(2), torch.eye(2)))


def test_too_few_or_broken_features_are_told():
    with pytest.raises(ValueError, match="at least two images, got 1"):
        frechet_distance(Moments.of(torch.ones(1, 1), E), Moments.of(torch.ones(3, 1), E))
    with pytest.raises(ValueError, match="NaN or infinite"):
        Moments.of(torch.tensor([[1.0], [float("inf")]]), E)
    with pytest.raises(ValueError, match="N ≥ 1"):
        Moments.of(torch.zeros(0, 3), E)
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        Moments.of(torch.zeros(3), E)


@REFUSED
def test_so_many_features_that_their_covariance_has_no_room_are_told_before_anything_is_drawn():
    """The memory grows with D², so that neither fewer samples nor smaller batches would help."""
    extractor = pixels((3, 512, 512))

    def drawn():
        pytest.fail("it was asked for samples")
        yield

    message = r"not enough memory for covariances of D = 786,432 features, 1.98e\+04 GB .*features of a classifier"
    train = Images(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1), {}, "two")
    for measure in (
        lambda: moments(extractor, drawn()),
        lambda: evaluate(drawn(), train, train, extractor, Origin("none", "none", 0, 1.0, 0)),
        lambda: Moments.of(torch.zeros(2, extractor.dim), extractor),
    ):
        with pytest.raises(ValueError, match=message):
            measure()
