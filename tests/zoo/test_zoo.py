"""The zoo: what is saved comes back, what is not ours is refused, and every card is of the file beside it."""

import hashlib
import json
import pickle
from dataclasses import dataclass

import pytest
import torch

from diffusion_book import evaluation, nn, samplers, schedules, zoo
from diffusion_book.data import Images
from diffusion_book.nn.build import KINDS
from diffusion_book.training import RunConfig, Trainer


@pytest.fixture
def network():
    torch.manual_seed(0)
    unet = nn.UNet(nn.UNetConfig(channels=8, channel_mults=(1,), attention_levels=(), groups=4, classes=3))
    for parameter in unet.parameters():  # the last layer begins at zero, which would hide every difference
        torch.nn.init.normal_(parameter, std=0.2)
    return unet.eval()


@pytest.fixture
def saved(network, tmp_path):
    path = tmp_path / "tiny.safetensors"
    sha256 = zoo.save(path, network, "cosine", 50, "v")
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256}))
    return path


def test_what_is_saved_comes_back_to_half_precision(network, saved):
    found = zoo.load_file(saved)
    assert not found.network.training
    assert found.prediction == "v"
    assert found.schedule.T == 50
    for name, value in network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value.half().float()), name
    assert not any(p.requires_grad for p in found.network.parameters())


def test_a_continuous_schedule_and_a_classifier_come_back(network, tmp_path):
    zoo.save(tmp_path / "flow.safetensors", network, "flow", None, "u")
    assert isinstance(zoo.load_file(tmp_path / "flow.safetensors").schedule, schedules.Flow)
    classifier = nn.Classifier(nn.ClassifierConfig(channels=4, features=8)).eval()
    zoo.save(tmp_path / "classifier.safetensors", classifier)
    found = zoo.load_file(tmp_path / "classifier.safetensors")
    x = torch.linspace(-1, 1, 784).reshape(1, 1, 28, 28)
    assert torch.allclose(found.network(x), classifier(x), rtol=0.02, atol=0.02)  # half precision keeps 11 bits
    with pytest.raises(ValueError, match="a classifier does not denoise"):
        found.denoiser()


def test_guidance_extrapolates_from_no_label_to_the_label(saved):
    found = zoo.load_file(saved)
    generator = torch.Generator().manual_seed(0)
    xt = torch.randn(4, 1, 8, 8, generator=generator)
    t, y = torch.full((4,), 20), torch.tensor([0, 1, 2, 0])
    conditional = found.denoiser(y, x0_max=None)(xt, t)
    unconditional = found.denoiser(x0_max=None)(xt, t)
    assert not torch.allclose(conditional, unconditional, atol=1e-3)
    guided = found.denoiser(y, w=2.0, x0_max=None)(xt, t)
    torch.testing.assert_close(guided, unconditional + 2 * (conditional - unconditional), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.denoiser(y, w=2.0)(xt, t), guided.clamp(-1, 1), atol=1e-4, rtol=1e-4)


def test_guidance_asks_for_what_it_needs(saved):
    found = zoo.load_file(saved)
    with pytest.raises(ValueError, match="guidance needs labels: got w = 2"):
        found.denoiser(w=2)
    without = nn.UNet(nn.UNetConfig(channels=8, channel_mults=(1,), attention_levels=(), groups=4))
    zoo.save(saved, without, "cosine", 50, "v")
    saved.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="also trained without labels"):
        zoo.load_file(saved).denoiser(torch.zeros(2, dtype=torch.int64), w=2)


def test_a_network_is_added_by_its_file_and_one_line(tmp_path, monkeypatch):
    """What the table of kinds knows can be named in a configuration, trained, saved, read again and drawn with."""

    @dataclass(frozen=True)
    class PixelwiseConfig:
        image_channels: int = 1
        classes: int = 0

    class Pixelwise(torch.nn.Conv2d):
        def __init__(self, config: PixelwiseConfig) -> None:
            super().__init__(config.image_channels, config.image_channels, 1)
            self.config = config

        def forward(self, x, t, y=None):
            return super().forward(x)

    monkeypatch.setitem(KINDS, "pixelwise", (Pixelwise, PixelwiseConfig))
    generator = torch.Generator().manual_seed(0)
    data = Images(2 * torch.rand(8, 1, 4, 4, generator=generator) - 1, torch.arange(8) % 3, "noise")
    config = RunConfig(network={"kind": "pixelwise"}, steps=2, batch_size=4, schedule="linear", T=20, precision="fp32")
    network = Trainer(config, tmp_path / "run", data=data).run()
    assert network.config == PixelwiseConfig(1, 3)
    zoo.save(tmp_path / "it.safetensors", network, "linear", 20, "v")
    found = zoo.load_file(tmp_path / "it.safetensors")
    assert isinstance(found.network, Pixelwise)
    x_T = samplers.start_noise((2, 1, 4, 4), generator)
    assert (
        samplers.ddim(found.denoiser(), found.schedule, x_T, samplers.uniform_times(found.schedule, 4)).shape
        == x_T.shape
    )


def test_a_changed_byte_is_noticed(saved):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file of its card"):
        zoo.load_file(saved)


def test_pickles_and_foreign_files_are_refused(saved, network, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="pickled weights are not read"):
        zoo.load_file(pickled)
    torch.save(network.state_dict(), pickled)
    with pytest.raises(ValueError, match="pickled weights are not read"):
        zoo.load_file(pickled)
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(saved.read_bytes()[:-10])
    with pytest.raises(ValueError, match="no safetensors file"):
        zoo.load_file(truncated)
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match="does not say which network"):
        zoo.load_file(foreign)
    metadata = {"network": nn.describe(network), "schedule": None, "T": None, "prediction": None}
    save_file({"weight": torch.zeros(2)}, foreign, {"diffusion_book": json.dumps(metadata)})
    with pytest.raises(ValueError, match="does not fit the network"):
        zoo.load_file(foreign)
    with pytest.raises(ValueError, match="cannot be read"):
        zoo.load_file(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        [],
        "unet",
        {"network": None, "schedule": None, "T": None, "prediction": None},
        {"network": {"kind": "vae"}, "schedule": None, "T": None, "prediction": None},
        {"network": {"kind": "unet"}, "schedule": "cosine", "T": "abc", "prediction": "v"},
        {"network": {"kind": "unet"}, "schedule": "cosine", "T": 10, "prediction": "w"},
        {"network": {"kind": "unet"}, "schedule": "cosine", "T": 10},
    ],
)
def test_a_description_that_is_none_is_told(metadata, tmp_path):
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign, {"diffusion_book": json.dumps(metadata)})
    with pytest.raises(ValueError, match=r"foreign.safetensors does not say which network it is of"):
        zoo.load_file(foreign)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("{", "m.json, the card of m.safetensors, cannot be read"),
        ("[1]", "m.json is no card of m.safetensors: it has no sha256"),
        ("{}", "m.json is no card of m.safetensors: it has no sha256"),
        ('{"sha256": 5}', "m.json is no card of m.safetensors: it has no sha256"),
        ('{"sha256": "5"}', "is not the file of its card"),
    ],
)
def test_a_file_beside_the_weights_that_is_no_card_is_told(card, message, network, tmp_path):
    zoo.save(tmp_path / "m.safetensors", network, "cosine", 60, "v")
    (tmp_path / "m.json").write_text(card)
    with pytest.raises(ValueError, match=message):
        zoo.load_file(tmp_path / "m.safetensors")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match=r"unknown model 'mnist-une' \(did you mean 'mnist-unet'\?\); choose one of"):
        zoo.load("mnist-une")
    with pytest.raises(ValueError, match=r"choose one of mnist-classifier, .*mnist-unet"):
        zoo.recipe("mnist-une")


@pytest.mark.parametrize("name", zoo.names())
def test_every_model_loads_and_its_card_says_how_it_was_made(name):
    found = zoo.load(name)
    path = zoo.WEIGHTS / f"{name}.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == found.card["sha256"]
    for what in ("command", "seed", "hardware", "images_seen", "wall_time", "versions", "metrics", "recipe"):
        assert found.card[what] not in (None, "", {}), what


@pytest.mark.parametrize(
    "name", [name for name in zoo.names() if zoo.card(name)["recipe"]["network"]["kind"] != "classifier"]
)
def test_every_denoiser_draws_something_like_ink_on_paper(name):
    """A few steps must end near the two values that digits have: most pixels black, a few white."""
    found = zoo.load(name)
    y = torch.arange(4)
    x_T = samplers.start_noise((4, 1, 28, 28), torch.Generator().manual_seed(0))
    x0 = samplers.dpm_solver(found.denoiser(y), found.schedule, x_T, samplers.log_snr_times(found.schedule, 6))
    assert (x0 < -0.9).float().mean() > 0.5
    assert 0.03 < (x0 > 0).float().mean() < 0.35


DENOISERS = [name for name in zoo.names() if "FCD-MNIST" in zoo.card(name)["metrics"]]


@pytest.mark.parametrize("name", zoo.names())
def test_every_card_says_that_it_is_of_one_training_run(name):
    metrics = zoo.card(name)["metrics"]
    how = metrics["measured by"] if name in DENOISERS else metrics
    assert how["training runs"] == 1
    assert name not in DENOISERS or how["seeds of sampling"] == len(metrics["FCD-MNIST"]["each"])


def test_the_classifiers_hashes_are_those_of_its_file_and_of_its_weights():
    """The reports and the other cards name the one of the weights."""
    card = zoo.card("mnist-classifier")
    assert card["sha256"] == hashlib.sha256((zoo.WEIGHTS / "mnist-classifier.safetensors").read_bytes()).hexdigest()
    found = evaluation.from_classifier(zoo.load("mnist-classifier").network, "mnist-classifier")
    assert card["weights_sha256"] == found.sha256
    for name in DENOISERS:
        how = zoo.card(name)["metrics"]["measured by"]
        assert how["extractor"] == f"mnist-classifier, SHA-256 {found.sha256}", name


def test_all_weights_together_are_small_enough_to_carry():
    assert sum(path.stat().st_size for path in zoo.WEIGHTS.glob("*")) < 32 * 2**20
