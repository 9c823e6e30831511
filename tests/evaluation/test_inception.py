"""FID's code path with a stand-in for the network, and everything that it refuses to call so."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from diffusion_book.data import Images
from diffusion_book.data.images import from_uint8
from diffusion_book.evaluation import Extractor, features, fid, frechet_inception_distance, inception
from diffusion_book.evaluation.naming import INCEPTION


class Statistics(nn.Module):
    """As torch-fidelity's extractors: bytes in, a tuple of features out."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.01]))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (torch.cat([x.float().mean((2, 3)), x.float().std((2, 3))], 1) * self.scale,)


def colours(n: int, generator: torch.Generator) -> Tensor:
    return from_uint8(torch.randint(256, (n, 3, 2, 2), generator=generator).byte())


@pytest.fixture
def stand_in() -> Extractor:
    """Believed to be the real one, so that the whole way can be walked without a download."""
    return dataclasses.replace(inception(Statistics()), name=INCEPTION, kind="inception")


@pytest.fixture
def cats(generator) -> Images:
    return Images(colours(500, generator), {}, "folder:cats")


def test_torch_fidelity_gives_the_same_number(cats, generator, tmp_path):
    """Its own calculate_metrics with the same stand-in, on the same bytes."""
    import diffusion_book._torchvision

    assert diffusion_book._torchvision.torchvision  # mended before torch-fidelity imports it
    torch_fidelity = pytest.importorskip("torch_fidelity")

    class Registered(torch_fidelity.FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
            super().__init__(name, features_list)
            self.inner = Statistics()

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("all",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "all"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return self.inner(x)

    class Bytes(torch.utils.data.Dataset):
        def __init__(self, x: Tensor) -> None:
            self.x = ((x + 1) * 127.5).round().to(torch.uint8)

        def __len__(self) -> int:
            return len(self.x)

        def __getitem__(self, i: int) -> Tensor:
            return self.x[i]

    torch_fidelity.register_feature_extractor("stand-in", Registered)
    samples = (0.7 * colours(400, generator)).clamp(-1, 1)
    theirs = torch_fidelity.calculate_metrics(
        input1=Bytes(samples),
        input2=Bytes(cats.x),
        fid=True,
        feature_extractor="stand-in",
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )["frechet_inception_distance"]
    module = Registered("stand-in", ["all"])
    name, ours = frechet_inception_distance(samples, cats, inception(module), tmp_path)
    assert name == "Fréchet distance (stand-in Registered)"
    assert ours == pytest.approx(theirs, rel=1e-4)  # they keep covariances of float32 means


def test_a_stand_in_is_asked_where_it_is_to_be(monkeypatch):
    """Nothing can be read there, so its hash is not asked for."""
    monkeypatch.setattr(features, "weights_sha256", lambda network: "0" * 64)
    assert inception(Statistics(), device="meta").dim == 6


def test_fifty_thousand_are_a_fid_and_come_in_batches(stand_in, cats, generator, tmp_path):
    found = fid((colours(1000, generator) for _ in range(50)), cats, stand_in, tmp_path)
    assert 0 <= found < 0.1
    assert len(list(tmp_path.iterdir())) == 1  # the reference's statistics are kept


def test_ten_thousand_are_not(stand_in, cats, generator, tmp_path):
    samples = colours(10_000, generator)
    name, value = frechet_inception_distance(samples, cats, stand_in, tmp_path)
    assert name == "FID-10k"
    with pytest.raises(ValueError, match=f"not a FID but FID-10k = {value:.4g}"):
        fid(samples, cats, stand_in, tmp_path)


def test_another_extractor_is_not(stand_in, cats, generator, tmp_path):
    other = inception(Statistics())
    assert other.kind == "other"
    samples = (colours(10_000, generator) for _ in range(5))
    with pytest.raises(ValueError, match=r"not a FID but Fréchet distance \(stand-in Statistics\)"):
        fid(samples, cats, other, tmp_path)


def test_a_part_of_the_reference_is_not(stand_in, generator, tmp_path):
    x = colours(300, generator)
    for name in ("cifar10/train", "cifar10/test", "somewhere"):
        with pytest.raises(ValueError, match=r"the reference must be .* got 300 of"):
            fid(x, Images(x, {}, name), stand_in, tmp_path)


def test_digits_are_not(stand_in, train, tmp_path):
    with pytest.raises(ValueError, match=r"without colour.*FCD-MNIST"):
        fid(train.x, train, stand_in, tmp_path)


def test_without_a_home_its_weights_are_not_put_into_a_folder_that_is_called_tilde(homeless, tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConnectionError, match=r"no home directory, and \$TORCH_HOME names none"):
        inception()
    assert list(tmp_path.iterdir()) == []
