"""Files of weights: what is saved comes back, what is not ours is refused, and a card is of the file beside it."""

import json
import pickle
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from diffusion_book import models, nn, samplers, schedules, zoo
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
    sha256 = models.save(path, network, "cosine", 50, "v")
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256}))
    return path


def test_what_is_saved_comes_back_to_half_precision(network, saved):
    found = models.load(saved)
    assert not found.network.training
    assert found.prediction == "v"
    assert found.schedule.T == 50
    for name, value in network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value.half().float()), name
    assert not any(p.requires_grad for p in found.network.parameters())


def test_a_compiled_network_is_saved_as_the_network_it_is(network, saved, tmp_path):
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 40])
    compiled = torch.compile(network, backend="eager")
    torch.testing.assert_close(compiled(x, t), network(x, t))
    models.save(tmp_path / "compiled.safetensors", compiled, "cosine", 50, "v")
    assert (tmp_path / "compiled.safetensors").read_bytes() == saved.read_bytes()


def test_what_half_precision_cannot_hold_is_kept_in_single(network, tmp_path):
    """Numbers beyond 65504 would be infinite, a tensor of tiny ones zero; beside ordinary ones a tiny one may go."""
    special = {
        "stem.weight": lambda w: w.copy_(70000 * w / w.abs().max()),
        "head.bias": lambda w: w.fill_(1e-9),
        "norm.weight": lambda w: w.fill_(1e38),
        "norm.bias": lambda w: w.zero_(),
        "embed_class.weight": lambda w: w[0, 0].fill_(1e-9),
    }
    with torch.no_grad():
        for name, change in special.items():
            change(network.get_parameter(name))
    models.save(tmp_path / "it.safetensors", network, "cosine", 50, "v")
    stored = load_file(tmp_path / "it.safetensors")
    single = {name for name, value in stored.items() if value.dtype == torch.float32}
    assert single == {"stem.weight", "head.bias", "norm.weight"}
    found = models.load(tmp_path / "it.safetensors").network
    for name, value in network.named_parameters():
        # Eleven bits of the largest number, which for those in single precision is far more than is lost.
        tolerance = 0 if name in single else float(value.detach().abs().max()) / 2**11
        torch.testing.assert_close(found.get_parameter(name), value, rtol=0, atol=tolerance)


def test_a_large_running_variance_comes_back(tmp_path):
    classifier = nn.Classifier(nn.ClassifierConfig(channels=4, features=8)).eval()
    classifier.body[1].running_var.fill_(1e6)
    models.save(tmp_path / "it.safetensors", classifier)
    assert torch.equal(
        models.load_classifier(tmp_path / "it.safetensors").network.body[1].running_var, torch.full((4,), 1e6)
    )


def test_a_continuous_schedule_and_a_classifier_come_back(network, tmp_path):
    models.save(tmp_path / "flow.safetensors", network, "flow", None, "u")
    assert isinstance(models.load(tmp_path / "flow.safetensors").schedule, schedules.Flow)
    classifier = nn.Classifier(nn.ClassifierConfig(channels=4, features=8)).eval()
    models.save(tmp_path / "classifier.safetensors", classifier)
    found = models.load_classifier(tmp_path / "classifier.safetensors")
    x = torch.linspace(-1, 1, 784).reshape(1, 1, 28, 28)
    assert torch.allclose(found.network(x), classifier(x), rtol=0.02, atol=0.02)  # half precision keeps 11 bits
    with pytest.raises(ValueError, match="a classifier does not denoise"):
        models.load(tmp_path / "classifier.safetensors")
    with pytest.raises(ValueError, match="is no classifier, whose features could be compared"):
        models.load_classifier(tmp_path / "flow.safetensors")


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
    data = Images(2 * torch.rand(8, 1, 4, 4, generator=generator) - 1, {"y": torch.arange(8) % 3}, "noise")
    objective = {"schedule": "linear", "T": 20}
    config = RunConfig(network={"kind": "pixelwise"}, objective=objective, steps=2, batch_size=4, precision="fp32")
    network = Trainer(config, tmp_path / "run", data=data).run()
    assert network.config == PixelwiseConfig(1, 3)
    models.save(tmp_path / "it.safetensors", network, "linear", 20, "v")
    found = models.load(tmp_path / "it.safetensors")
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
        models.load(saved)


def test_pickles_and_foreign_files_are_refused(saved, network, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="pickled weights are not read"):
        models.load(pickled)
    torch.save(network.state_dict(), pickled)
    with pytest.raises(ValueError, match="pickled weights are not read"):
        models.load(pickled)
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(saved.read_bytes()[:-10])
    with pytest.raises(ValueError, match="no safetensors file"):
        models.load(truncated)
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match="does not say which network"):
        models.load(foreign)
    metadata = {"network": nn.describe(network), "schedule": "cosine", "T": 50, "prediction": "v"}
    save_file({"weight": torch.zeros(2)}, foreign, {"diffusion_book": json.dumps(metadata)})
    with pytest.raises(ValueError, match="does not fit the network"):
        models.load(foreign)
    with pytest.raises(ValueError, match=r"there is no model '.*absent.safetensors': it is no run's folder, no file"):
        models.load(tmp_path / "absent.safetensors")


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
        models.load(foreign)


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
    models.save(tmp_path / "m.safetensors", network, "cosine", 60, "v")
    (tmp_path / "m.json").write_text(card)
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path / "m.safetensors")


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"there is no model 'mnist-une': .*; did you mean 'mnist-unet'\?"):
        models.load("mnist-une")
    with pytest.raises(ValueError, match=r"no name of the zoo, which has icons-unet, mnist-classifier, .*mnist-unet"):
        models.load("kitten")


def test_a_size_is_for_a_file_that_does_not_say(saved):
    assert models.load(saved).shape is None
    with pytest.raises(ValueError, match="does not say how large its images are; give their side in pixels"):
        models.draw(models.load(saved), 0, [1], steps=1)
    assert models.draw(models.load(saved, size=12), 0, [1], steps=1).shape == (1, 1, 12, 12)


def test_what_is_exported_is_the_same_file_with_the_same_card(tmp_path):
    models.export(models.load("mnist-flow"), tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == zoo.weights("mnist-flow").read_bytes()
    assert models.load(tmp_path / "copy.safetensors").card == models.load("mnist-flow").card


@pytest.mark.parametrize("name", zoo.names())
def test_weights_that_are_written_again_are_the_same_file(name, tmp_path):
    models.export(models.load_any(name), tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == zoo.weights(name).read_bytes()


def test_weights_may_lie_at_home(network, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    models.save("~/w.safetensors", network, "cosine", 50, "v")
    assert models.load("~/w.safetensors").schedule.T == 50
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
