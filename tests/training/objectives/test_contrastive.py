"""To find the caption: that it is the loss of the book on the data's own captions, and what it refuses."""

import pytest
import torch

from diffusion_book.data import Images, Scenes
from diffusion_book.losses import contrastive_loss
from diffusion_book.nn import Clip, ClipConfig
from diffusion_book.training import Contrastive, RunConfig
from diffusion_book.training.config import build_network, build_objective

TINY = {
    "kind": "clip",
    "channels": 4,
    "features": 8,
    "width": 8,
    "layers": 1,
    "heads": 2,
    "vocabulary": 87,
    "length": 16,
}


def test_the_loss_is_that_of_the_pictures_and_their_captions(generator):
    torch.manual_seed(0)
    network = Clip(ClipConfig(**{key: value for key, value in TINY.items() if key != "kind"})).eval()
    x, told = Scenes(varied=True).take(torch.arange(6))
    state = generator.get_state()
    batch = Contrastive().draw(x, told, generator)
    assert torch.equal(generator.get_state(), state)  # nothing is left to chance
    expected = contrastive_loss(network.image(x), network.text(told["tokens"]).pooled, network.scale)
    torch.testing.assert_close(Contrastive().loss(network, batch), expected)
    assert Contrastive().loss(network, batch).shape == (6,)


def test_data_without_captions_is_refused(generator):
    with pytest.raises(ValueError, match="a contrastive loss needs captions, and this data has none"):
        Contrastive().draw(torch.zeros(2, 3, 8, 8), {}, generator)
    silent = Images(torch.linspace(-1, 1, 192).view(1, 3, 8, 8), {}, "silent")
    with pytest.raises(ValueError, match="icons has no captions for a network of kind 'clip'; take data = 'scenes'"):
        build_network(RunConfig(data="icons", network=TINY), silent)
    with pytest.raises(ValueError, match="captions of scenes are of vocabulary = 87 and length = 16, got 87 and 9"):
        build_network(RunConfig(data="scenes", network={**TINY, "length": 9}), Scenes())


def test_a_clip_is_trained_for_nothing_else():
    config = RunConfig(data="scenes", network=TINY)
    assert config.objective == {"kind": "contrastive"}
    assert isinstance(build_objective(config, build_network(config, Scenes())), Contrastive)
    with pytest.raises(ValueError, match="a network of kind 'clip' cannot be trained for denoising"):
        RunConfig(data="scenes", network=TINY, objective={"kind": "denoising"})
    with pytest.raises(ValueError, match="a network of kind 'unet' cannot be trained for contrastive"):
        RunConfig(data="scenes", objective={"kind": "contrastive"})
