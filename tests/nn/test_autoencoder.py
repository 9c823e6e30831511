"""Autoencoders: shapes on both sides, what a latent is, and how the small one and Stable Diffusion's are one class.

That the large one computes what AutoencoderKL of diffusers does is tested in tests/interop.
"""

import dataclasses

import pytest
import torch
from torch.distributions import Normal

from diffusion_book.nn import Autoencoder, AutoencoderConfig, LatentGaussian, build, describe
from diffusion_book.nn.autoencoder import STABLE_DIFFUSION
from diffusion_book.nn.critic import PatchCritic

SMALL = AutoencoderConfig(channels=8, channel_mults=(1, 2), patch=2, groups=4, latent_channels=3)
CONFIGS = {
    "small": SMALL,
    "pixels": dataclasses.replace(SMALL, patch=1, attention=True, image_channels=1),
    "stable diffusion": dataclasses.replace(STABLE_DIFFUSION, channels=32),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_pictures_go_there_and_back(config, generator):
    torch.manual_seed(0)
    network, f = Autoencoder(config).eval(), config.stride
    x = torch.randn(2, config.image_channels, 2 * f, 3 * f, generator=generator)
    latent = network.encode(x)
    assert latent.mean.shape == latent.log_var.shape == (2, config.latent_channels, 2, 3)
    assert latent.mean.shape[1:] == config.latent_shape(x.shape[1:])
    decoded, again = network(x)
    assert torch.equal(decoded, network.decode(latent.mean))
    assert torch.equal(again.mean, latent.mean)
    assert decoded.shape == x.shape
    eps = torch.randn(latent.mean.shape, generator=generator)
    assert torch.equal(network(x, eps)[0], network.decode(latent.sample(eps)))


def test_strides_are_those_of_the_papers():
    assert SMALL.stride == 4
    assert STABLE_DIFFUSION.stride == 8
    assert STABLE_DIFFUSION.widths == (128, 256, 512, 512)


def test_a_latent_is_a_gaussian(generator):
    """Samples have its mean and its standard deviation, within four standard errors."""
    mean, log_var = torch.tensor([[0.5]]), torch.tensor([[-1.2]])
    eps = torch.randn(40_000, 1, generator=generator)
    z = LatentGaussian(mean, log_var).sample(eps)
    std = float((0.5 * log_var).exp())
    assert abs(float(z.mean()) - 0.5) < 4 * std / 200
    assert abs(float(z.std()) - std) < 4 * std / (200 * 2**0.5)
    torch.testing.assert_close(Normal(mean, std).cdf(z).mean(), torch.tensor(0.5), rtol=0, atol=4 / (200 * 12**0.5))


def test_a_log_variance_is_kept_where_its_exponential_is_a_number():
    network = Autoencoder(SMALL)
    with torch.no_grad():
        network.encoder.head.bias[SMALL.latent_channels :] = 1e4
    log_var = network.encode(torch.zeros(1, 3, 8, 8)).log_var
    assert log_var.max() == 20
    assert log_var.exp().isfinite().all()


def test_each_position_of_a_latent_knows_of_its_place(generator):
    """A change of one corner's pixels moves, of what has no attention, only the latents near it."""
    torch.manual_seed(0)
    network = Autoencoder(dataclasses.replace(SMALL, groups=4)).eval()
    x = torch.randn(1, 3, 128, 128, generator=generator)
    # Only the receptive field is looked at: norms over the whole picture are left out.
    for norm in [module for module in network.modules() if isinstance(module, torch.nn.GroupNorm)]:
        norm.forward = lambda h: h
    y = x.clone()
    y[..., :4, :4] += 1
    moved = (network.encode(x).mean - network.encode(y).mean).abs().amax((0, 1)) > 0
    assert moved[0, 0]
    assert not moved[-8:].any()
    assert not moved[:, -8:].any()


def test_a_description_survives(generator):
    for config in CONFIGS.values():
        assert build(describe(Autoencoder(config))).config == config


def test_what_does_not_fit_is_told():
    network = Autoencoder(SMALL)
    with pytest.raises(ValueError, match=r"expected images \[B, 3, H, W\], got shape \(1, 1, 8, 8\)"):
        network.encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="image sides must be multiples of 4 for this autoencoder, got 8×10"):
        network.encode(torch.zeros(1, 3, 8, 10))
    with pytest.raises(ValueError, match=r"expected latents \[B, 3, h, w\], got shape \(1, 4, 2, 2\)"):
        network.decode(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match=r"latents must be torch\.float32"):
        network.decode(torch.zeros(1, 3, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_mults": ()}, "channel_mults needs at least one level"),
        ({"groups": 3}, "groups = 3 must divide the features of every level, got 8"),
        ({"latent_channels": 0}, "latent_channels must be a whole number of at least 1"),
        ({"scale": 0.0}, "scale must be positive and finite, got 0.0; it is 1 over the standard deviation"),
    ],
)
def test_a_bad_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_critic_answers_for_patches(layers, generator):
    """One answer sees a square of pixels, as wide as the strides and kernels say, and no more."""
    torch.manual_seed(0)
    critic = PatchCritic(3, 8, layers).double()
    for norm in [module for module in critic.modules() if isinstance(module, torch.nn.GroupNorm)]:
        norm.forward = lambda h: h
    x = torch.randn(1, 3, 160, 160, generator=generator, dtype=torch.float64, requires_grad=True)
    answers = critic(x)
    middle = answers.shape[-1] // 2
    answers[0, 0, middle, middle].backward()
    seen = (x.grad.abs().amax((0, 1)) > 0).any(0).nonzero()[:, 0]
    assert int(seen[-1] - seen[0]) + 1 == {1: 16, 2: 34, 3: 70}[layers]
