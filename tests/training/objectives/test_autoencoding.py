"""To find pictures again: the sum of its parts, whose gradients go where they should, and a critic that is resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from diffusion_book import models
from diffusion_book.data import Images
from diffusion_book.losses import adaptive_weight, critic_loss, feature_distance, fooling_loss
from diffusion_book.nn import Autoencoder, AutoencoderConfig, Classifier, ClassifierConfig, LatentGaussian
from diffusion_book.training import Autoencoding, AutoencodingConfig, RunConfig, TrainConfig, Trainer, checkpoint, train
from diffusion_book.training.checkpoint import CheckpointError
from diffusion_book.training.objectives import Learning
from diffusion_book.training.objectives.autoencoding import Critic

TINY = AutoencoderConfig(channels=8, channel_mults=(1, 2), patch=2, groups=4, latent_channels=3)
RUN = {
    "network": {"kind": "autoencoder", "channels": 8, "patch": 2, "groups": 4, "latent_channels": 3},
    "objective": {"critic_from": 2, "critic_channels": 8},
    "batch_size": 4,
    "precision": "fp32",
    "preview_every": 0,
    "checkpoint_every": 4,
}


def network(seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    return Autoencoder(TINY)


def pictures(n: int = 6, side: int = 32) -> Images:
    x = 2 * torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1)) - 1
    return Images(x, {"y": torch.arange(n) % 2}, "made up")


class Known(nn.Module):
    """Decodes the same pictures and says the same latent, whatever it is shown."""

    def __init__(self, x0_hat: Tensor, latent: LatentGaussian) -> None:
        super().__init__()
        self.answer = x0_hat, latent

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, LatentGaussian]:
        return self.answer


def test_the_loss_is_that_of_the_sums_divided_by_the_numbers_of_a_picture(generator):
    """Rombach et al. sum the absolute error over pixels, and the KL over latents; here with a weight that is seen."""
    x0, x0_hat = (torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2))
    latent = LatentGaussian(*(torch.randn(2, 4, 2, 2, generator=generator) for _ in range(2)))
    objective = Autoencoding(TINY.latent_shape, kl_weight=0.5)
    found = objective.loss(Known(x0_hat, latent), {"x0": x0, "eps": torch.zeros(2, 4, 2, 2)})
    normal = Normal(latent.mean, (0.5 * latent.log_var).exp())
    sums = (x0 - x0_hat).abs().sum((1, 2, 3)) + 0.5 * kl_divergence(normal, Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(found, sums / (3 * 8 * 8))


def test_features_are_compared_besides(generator):
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(3, 4, 8)).eval().requires_grad_(False)
    x0, x0_hat = (torch.rand(2, 3, 16, 16, generator=generator) for _ in range(2))
    latent = LatentGaussian(*(torch.zeros(2, 3, 4, 4) for _ in range(2)))
    batch = {"x0": x0, "eps": latent.mean}
    plain = Autoencoding(TINY.latent_shape).loss(Known(x0_hat, latent), batch)
    compared = Autoencoding(TINY.latent_shape, features=classifier.maps, feature_weight=0.3)
    maps = classifier.maps(x0)
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 16, 16), (8, 8, 8), (16, 4, 4)]
    distance = feature_distance(classifier.maps(x0_hat), maps)
    torch.testing.assert_close(compared.loss(Known(x0_hat, latent), batch) - plain, 0.3 * distance)
    hat = x0_hat.clone().requires_grad_()
    compared.loss(Known(hat, latent), batch).sum().backward()
    assert hat.grad.abs().sum() > 0


def test_what_is_drawn_has_the_shape_of_the_latents_and_held_out_pictures_no_noise():
    objective, x0 = Autoencoding(TINY.latent_shape), pictures().x
    batch = objective.draw(x0, {"y": torch.zeros(6)}, torch.Generator().manual_seed(3))
    assert set(batch) == {"x0", "eps"}
    assert torch.equal(batch["eps"], torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3)))
    held_out = objective.draw_held_out(x0, {}, torch.Generator())
    assert not held_out["eps"].any()
    assert held_out["eps"].shape == (6, 3, 8, 8)


def judged() -> tuple[Autoencoder, Autoencoding, dict[str, Tensor]]:
    objective = Autoencoding(TINY.latent_shape, critic=Critic(3, 8, 0, 1e-3), critic_weight=0.7)
    return network().train(), objective, objective.draw(pictures().x, {}, torch.Generator().manual_seed(0))


def test_a_critic_adds_gradients_and_nothing_to_the_number():
    """The network's are those of error, KL and λ times what fools the critic; the critic's those of its own loss."""
    ours, objective, batch = judged()
    found = objective.loss(ours, batch)
    found.mean().backward()

    plain = Autoencoding(TINY.latent_shape)
    theirs = network().train()
    total = plain.loss(theirs, batch)
    torch.testing.assert_close(found, total)
    x0_hat, _ = theirs(batch["x0"], batch["eps"])
    critic = Critic(3, 8, 0, 1e-3).network
    error, fooling = (batch["x0"] - x0_hat).abs().mean(), fooling_loss(critic(x0_hat)).mean()
    weight = adaptive_weight(error, fooling, theirs.decoder.head.weight)
    (total.mean() + 0.7 * weight * fooling).backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7, msg=name)

    critic.zero_grad()
    critic_loss(critic(batch["x0"]), critic(x0_hat.detach())).mean().backward()
    for a, b in zip(objective.critic.network.parameters(), critic.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_a_critic_is_not_asked_where_nothing_is_learnt():
    ours, objective, batch = judged()
    ours.eval()
    objective.loss(ours, batch).mean().backward()
    assert all(weight.grad is None for weight in objective.critic.network.parameters())


def test_a_critic_begins_when_it_is_told_to():
    """Until then it stays as it is; from then on it learns, in the plain loop as well."""
    objective = AutoencodingConfig(critic_from=2, critic_channels=8).build(network())
    before = {name: value.clone() for name, value in objective.critic.network.state_dict().items()}
    config = TrainConfig(steps=2, batch_size=4, warmup=0, precision="fp32")
    train(network(), pictures(), objective, config)
    assert all(torch.equal(before[name], value) for name, value in objective.critic.network.state_dict().items())
    assert objective.critic.begun
    train(network(), pictures(), objective, config)
    assert all(not torch.equal(before[name], value) for name, value in objective.critic.network.state_dict().items())


def test_a_critic_learns_to_tell_noise_from_flat_pictures(generator):
    critic = Critic(3, 8, 0, 3e-3)
    losses = []
    for _ in range(30):
        real, fake = torch.zeros(4, 3, 16, 16), torch.randn(4, 3, 16, 16, generator=generator)
        loss = critic.judge(real, fake).mean()
        loss.backward()
        critic.step()
        losses.append(float(loss))
    assert losses[-1] < 0.2 < losses[0]


def run(folder: Path, resume: bool = False, **changes: Any) -> dict[str, dict[str, Tensor]]:
    Trainer(RunConfig.from_dict({**RUN, "data": "folder:made/up", **changes}), folder, data=pictures()).run(resume)
    return checkpoint.load(checkpoint.latest(folder / "checkpoints"))[1]


def test_a_run_that_is_cut_ends_with_the_same_critic(tmp_path):
    whole = run(tmp_path / "whole", steps=8, decay="none")
    run(tmp_path / "cut", steps=4, decay="none")
    cut = run(tmp_path / "cut", resume=True, steps=8, decay="none")
    assert set(whole) == {"network", "ema", "optimiser", "log", "objective"}
    for part, tensors in whole.items():
        for name, value in tensors.items():
            assert torch.equal(value, cut[part][name]), (part, name)
    assert int(whole["objective"]["steps"]) == 8
    assert any(name.startswith("optimiser.") for name in whole["objective"])


def test_a_checkpoint_without_its_critic_is_refused(tmp_path, monkeypatch):
    run(tmp_path / "run", steps=4, decay="none", objective={})
    monkeypatch.setattr("diffusion_book.training.trainer.decides", lambda config, step: {})
    monkeypatch.setattr("diffusion_book.training.resume.go_on", lambda folder, asked: asked)
    monkeypatch.setattr("diffusion_book.training.trainer.go_on", lambda folder, asked: asked)
    with pytest.raises(CheckpointError):
        run(tmp_path / "run", resume=True, steps=8, decay="none")


def test_a_critic_learns_in_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", property(lambda self: 2))
    with pytest.raises(ValueError, match="is learnt in one process; start one"):
        run(tmp_path / "run", steps=4)


def test_a_critic_does_without_float16():
    ours, objective, batch = judged()
    x0_hat, latent = ours(batch["x0"], batch["eps"])
    half = Known(x0_hat.half(), latent)
    with pytest.raises(ValueError, match="a critic needs precision = 'bf16' or 'fp32'"):
        objective.loss(half.train(), batch)


def test_features_are_found_by_their_classifiers_name(tmp_path):
    torch.manual_seed(0)
    models.save(tmp_path / "looks.safetensors", Classifier(ClassifierConfig(3, 4, 8)))
    objective = {"features": str(tmp_path / "looks.safetensors"), "feature_weight": 0.5}
    config = RunConfig.from_dict({**RUN, "steps": 1, "objective": objective, "data": "folder:made/up"})
    with pytest.raises(ValueError, match=r"looks.safetensors' is found by models\.trainer_of"):
        Trainer(config, tmp_path / "run", data=pictures())
    trainer = models.trainer_of(config, tmp_path / "run", pictures())
    assert isinstance(trainer.objective, Learning)
    assert trainer.objective.feature_weight == 0.5
    assert [len(m[0]) for m in trainer.objective.features(pictures().x)] == [4, 8, 16]
    trainer.run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl_weight": -1.0}, "kl_weight must be at least 0 and finite, got -1.0; 0 is none"),
        ({"critic_from": -1}, "critic_from must be a whole number of at least 0, got -1"),
        ({"critic_rate": 0.0}, "critic_rate must be positive and finite, got 0.0"),
    ],
)
def test_a_bad_objective_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AutoencodingConfig(**options)


def test_networks_and_objectives_must_fit():
    with pytest.raises(ValueError, match="a network of kind 'unet' cannot be trained for autoencoding"):
        RunConfig.from_dict({"objective": {"kind": "autoencoding"}})
    with pytest.raises(ValueError, match="a network of kind 'autoencoder' cannot be trained for denoising"):
        RunConfig.from_dict({"network": RUN["network"], "objective": {"kind": "denoising"}})
    assert RunConfig.from_dict({"network": RUN["network"]}).objective["kind"] == "autoencoding"
