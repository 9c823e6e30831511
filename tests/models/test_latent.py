"""Models of latents: a model with another codec, and nothing else that is new."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from diffusion_book import models
from diffusion_book.data import Images
from diffusion_book.models import Autoencoded, Pixels
from diffusion_book.models.codec import measure
from diffusion_book.nn import Autoencoder, AutoencoderConfig
from diffusion_book.training import RunConfig

AUTOENCODER = {"kind": "autoencoder", "channels": 8, "channel_mults": [1, 2], "patch": 2, "groups": 4}
UNET = {"kind": "unet", "channels": 8, "channel_mults": [1, 2], "attention_levels": [], "groups": 4}
TINY = {"data": "folder:made/up", "size": 32, "batch_size": 4, "steps": 2, "precision": "fp32", "preview_every": 2}


@pytest.fixture(autouse=True)
def at_home(tmp_path_factory, monkeypatch):
    """Latents are kept where no other test looks."""
    monkeypatch.setenv("DIFFUSION_BOOK_CACHE", str(tmp_path_factory.getbasetemp() / "latents"))


def pictures(side: int = 32, channels: int = 3) -> Images:
    x = 2 * torch.rand(12, channels, side, side, generator=torch.Generator().manual_seed(0)) - 1
    return Images(x, {"y": torch.arange(12) % 3}, "made up")


def autoencoder(scale: float = 2.0, shift: float = 0.5, seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    config = AutoencoderConfig(channels=8, patch=2, groups=4, scale=scale, shift=shift)
    return Autoencoder(config).eval().requires_grad_(False)


class Same(nn.Module):
    """An autoencoder in name: pictures are their own latents."""

    config = AutoencoderConfig(latent_channels=3, channel_mults=(1,), groups=1, scale=4.0, shift=0.25)

    def encode(self, x):
        from diffusion_book.nn import LatentGaussian

        return LatentGaussian(x, torch.zeros_like(x))

    def decode(self, z):
        return z


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A file of an autoencoder."""
    path = tmp_path_factory.mktemp("kept") / "small.safetensors"
    models.save(path, autoencoder())
    return path


@pytest.fixture(scope="module")
def run(kept, tmp_path_factory) -> Path:
    """The folder of a model of its latents."""
    folder = tmp_path_factory.mktemp("latent") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFUSION_BOOK_CACHE", str(tmp_path_factory.getbasetemp() / "latents"))
        config = RunConfig.from_dict({**TINY, "network": UNET, "codec": str(kept), "class_names": ["a", "b", "c"]})
        models.trainer_of(config, folder, pictures()).run()
    return folder


def test_the_identity_goes_there_and_back():
    codec, x = Autoencoded(Same()), pictures().x
    z = codec.encode(x)
    torch.testing.assert_close(z, (x - 0.25) * 4)
    torch.testing.assert_close(codec.decode(z), x, rtol=0, atol=1e-6)
    assert codec.decode(100 + z).max() == 1
    assert codec.x0_max is None


def test_a_codec_shifts_first_and_scales_then():
    network, x = autoencoder(), pictures().x
    codec = Autoencoded(network)
    torch.testing.assert_close(codec.encode(x), (network.encode(x).mean - 0.5) * 2)
    z = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(codec.decode(z), network.decode(z / 2 + 0.5).clamp(-1, 1))
    assert codec.shape((3, 32, 64)) == (4, 8, 16)
    assert codec.pictures((4, 8, 16)) == (3, 32, 64)


def test_what_is_measured_makes_latents_standard():
    """Encoded by what was measured, they have mean 0 and standard deviation 1 to the four digits that are kept."""
    network = autoencoder(1.0, 0.0)
    measure(network, pictures())
    z = Autoencoded(network).encode(pictures().x)
    assert abs(float(z.mean())) < 1e-3
    assert abs(float(z.std()) - 1) < 1e-3


def test_an_autoencoder_survives_a_file_with_its_scale(kept):
    found = models.load_autoencoder(kept)
    assert found.codec.name == str(kept)
    assert found.network.config == autoencoder().config
    for name, value in found.network.state_dict().items():
        torch.testing.assert_close(value, autoencoder().state_dict()[name], rtol=2**-10, atol=1e-6)


def test_a_run_of_an_autoencoder_is_measured_and_previewed(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion_book.models.files.build_data", lambda config: pictures())
    config = RunConfig.from_dict({**TINY, "network": AUTOENCODER})
    models.trainer_of(config, tmp_path / "run", pictures()).run()
    found = models.load_autoencoder(tmp_path / "run")
    assert found.network.config.scale != 1
    assert (tmp_path / "run" / "previews" / "step-00000002.png").is_file()
    models.export(found, tmp_path / "small.safetensors")
    again = models.load_autoencoder(tmp_path / "small.safetensors")
    assert again.network.config == found.network.config
    assert again.card.recipe == config


def test_a_model_of_latents_draws_pictures(run, kept):
    model = models.load(run)
    assert isinstance(model.codec, Autoencoded)
    assert model.shape == (3, 32, 32)
    x = models.draw(model, [0, 1], range(2), steps=2)
    assert x.shape == (2, 3, 32, 32)
    assert x.abs().max() <= 1
    drawn = dataclasses.replace(model, codec=dataclasses.replace(model.codec, network=Decodes(model.codec.network)))
    assert torch.equal(models.draw(drawn, [0, 1], range(2), steps=2), x)
    assert drawn.codec.network.asked == [(2, 4, 8, 8)]


class Decodes(nn.Module):
    """An autoencoder that keeps the shapes that it is asked to decode."""

    def __init__(self, inside: Autoencoder) -> None:
        super().__init__()
        self.inside, self.config, self.asked = inside, inside.config, []

    def decode(self, z):
        self.asked.append(tuple(z.shape))
        return self.inside.decode(z)


def test_a_model_of_latents_survives_a_file(run, kept, tmp_path):
    model = models.load(run)
    models.export(model, tmp_path / "latent.safetensors")
    again = models.load(tmp_path / "latent.safetensors")
    assert again.codec.name == str(kept)
    assert again.shape == model.shape
    # In half precision, weights are off by 2^-11, and so pictures by a few times that.
    found, wanted = (models.draw(m, [0, 1], range(2), steps=2) for m in (again, model))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.05)
    models.export(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "latent.safetensors").read_bytes()


def test_another_autoencoder_under_the_same_name_is_refused(run, tmp_path):
    model = models.load(run)
    path = tmp_path / "small.safetensors"
    models.save(path, model.codec.network)
    renamed = dataclasses.replace(model, codec=models.load_autoencoder(path).codec)
    models.export(renamed, tmp_path / "latent.safetensors")
    models.load(tmp_path / "latent.safetensors")
    models.save(path, autoencoder(seed=1))
    with pytest.raises(ValueError, match="is not the autoencoder whose latents this model was trained on"):
        models.load(tmp_path / "latent.safetensors")


def test_a_run_is_gone_on_with_and_trained_like(run, kept):
    assert models.like(str(run))["codec"] == str(kept)
    config = RunConfig.from_file(run / "config.json")
    assert config.network["image_channels"] == 4
    trainer = models.trainer_of(dataclasses.replace(config, steps=3, decay="cosine"), run, pictures())
    assert trainer.data.shape == (4, 8, 8)


def test_what_does_not_fit_is_told(kept, run, tmp_path):
    with pytest.raises(ValueError, match="sides that are multiples of 4 for this autoencoder, got 30×30"):
        models.trainer_of(RunConfig.from_dict({**TINY, "codec": str(kept)}), tmp_path, pictures(30))
    with pytest.raises(ValueError, match="of pictures of 3 channels, got 1"):
        models.trainer_of(RunConfig.from_dict({**TINY, "codec": str(kept)}), tmp_path, pictures(channels=1))
    with pytest.raises(ValueError, match=r"denoises latents of 3 channels, and those of .* have 4"):
        models.load(run).codec.pictures((3, 8, 8))
    with pytest.raises(ValueError, match="is no autoencoder, whose latents could be denoised"):
        models.trainer_of(RunConfig.from_dict({**TINY, "codec": "mnist-unet"}), tmp_path, pictures())
    with pytest.raises(ValueError, match="an autoencoder does not denoise; load a model such as 'mnist-unet'"):
        models.load(kept)
    with pytest.raises(ValueError, match="is no classifier"):
        models.load_classifier(kept)
    with pytest.raises(ValueError, match="does not fit this network, which needs a multiple of 8"):
        models.load(run, size=36)
    with pytest.raises(ValueError, match="a latent's mirror image is not that of its picture"):
        RunConfig.from_dict({**TINY, "codec": str(kept), "flip": True})
    with pytest.raises(ValueError, match="latents can be denoised, and this run trains for classification"):
        RunConfig.from_dict({**TINY, "codec": str(kept), "network": {"kind": "classifier"}})


def test_pixels_are_their_own_shape():
    assert Pixels().pictures((3, 8, 8)) == Pixels().shape((3, 8, 8)) == (3, 8, 8)
