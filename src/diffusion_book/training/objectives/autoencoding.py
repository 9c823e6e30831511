"""To find a picture again from few numbers: an autoencoder, its features and its critic. Chapter 13."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffusion_book._checks import at_least, positive
from diffusion_book.conditions import Conditions
from diffusion_book.losses import adaptive_weight, critic_loss, feature_distance, fooling_loss, kl_to_normal
from diffusion_book.nn.build import uncompiled
from diffusion_book.nn.critic import PatchCritic
from diffusion_book.training.checkpoint import flatten, unflatten
from diffusion_book.training.objectives.common import Batch

Features = Callable[[Tensor], Sequence[Tensor]]
"""Pictures [B, C, H, W] → the maps of some layers [B, C_i, H_i, W_i]; frozen."""


class Critic:
    """A `PatchCritic` that learns beside what it judges, with an optimiser of its own.

    Attributes:
        network: of it. steps: that the network it judges has taken.

    Args:
        begins: the step from which on it learns, and is listened to. rate: its learning rate.
    """

    def __init__(self, image_channels: int, channels: int, begins: int, rate: float) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.network = PatchCritic(image_channels, channels)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), rate, betas=(0.5, 0.9), weight_decay=0.0)
        self.begins, self.steps = begins, 0

    @property
    def begun(self) -> bool:
        """Whether it is listened to."""
        return self.steps >= self.begins

    def judge(self, x0: Tensor, x0_hat: Tensor) -> Tensor:
        """[B] `critic_loss`, whose gradient is the critic's alone."""
        real, fake = self.network.to(x0.device)(torch.cat([x0, x0_hat.detach()])).chunk(2)
        return critic_loss(real, fake)

    def fooled(self, x0_hat: Tensor) -> Tensor:
        """[B] `fooling_loss`, whose gradient is that of x0_hat alone."""
        self.network.to(x0_hat.device).requires_grad_(False)
        answers = self.network(x0_hat)
        self.network.requires_grad_(True)
        return fooling_loss(answers)

    def step(self) -> None:
        """One step, with the gradients that there are."""
        if self.begun:
            self.optimiser.step()
            self.optimiser.zero_grad()
        self.steps += 1


@dataclass(frozen=True)
class Autoencoding:
    """The absolute error of pictures there and back; features that should agree; a critic; a weak pull to N(0, 1).

    All of it is what Rombach et al. sum over an example, divided by the numbers C · H · W of a picture: then it does
    not depend on their size, and `kl_weight` is theirs. The critic adds its gradients and nothing to the number, which
    so goes on meaning how well pictures are found again.

    Attributes:
        latent: the shape of a latent from that of a picture: (C, H, W) → (L, h, w).
        kl_weight: of the KL of a whole latent, beside the error of all its pixels.
        features: None for none. feature_weight: of their distance.
        critic: None for none. critic_weight: of being judged, times `adaptive_weight`.

    Source: Rombach et al. 2022, appendix G, and their code; Esser et al. 2021, equation 6.
    """

    T: ClassVar[None] = None
    latent: Callable[[tuple[int, ...]], tuple[int, ...]]
    kl_weight: float = 1e-6
    features: Features | None = None
    feature_weight: float = 1.0
    critic: Critic | None = None
    critic_weight: float = 0.5

    def draw(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """x0 and the noise of its latents; nothing is told of them."""
        shape = self.latent(tuple(x0.shape[1:]))
        return {"x0": x0, "eps": torch.randn(len(x0), *shape, generator=generator)}

    def draw_held_out(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """As `draw`, without noise: the mean of a latent is decoded."""
        return {"x0": x0, "eps": torch.zeros(len(x0), *self.latent(tuple(x0.shape[1:])), device=x0.device)}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """[B]."""
        x0 = batch["x0"]
        x0_hat, latent = network(x0, batch["eps"])
        error = (x0_hat.float() - x0).abs().flatten(1).mean(1)
        if self.features is not None:
            with torch.no_grad():
                wanted = self.features(x0)
            error = error + self.feature_weight * feature_distance(self.features(x0_hat), wanted)
        total = error + self.kl_weight * kl_to_normal(latent.mean, latent.log_var) / x0[0].numel()
        if self.critic is not None and self.critic.begun and network.training:
            judged = self._judged(self.critic, network, x0, x0_hat, error)
            total = total + judged - judged.detach()
        return total

    def _judged(self, critic: Critic, network: nn.Module, x0: Tensor, x0_hat: Tensor, error: Tensor) -> Tensor:
        """[B]: what the critic learns from, and what from the critic is learnt."""
        if x0_hat.dtype == torch.float16:
            raise ValueError("a critic needs precision = 'bf16' or 'fp32': gradients in float16 are scaled for one")
        fooling = critic.fooled(x0_hat)
        last: Any = uncompiled(network)
        weight = adaptive_weight(error.mean(), fooling.mean(), last.decoder.head.weight)
        return self.critic_weight * weight * fooling + critic.judge(x0, x0_hat)

    def step(self) -> None:
        """The critic's, where there is one."""
        if self.critic is not None:
            self.critic.step()

    def state(self) -> dict[str, Tensor]:
        """Of the critic."""
        if self.critic is None:
            return {}
        weights = {f"network.{name}": value for name, value in self.critic.network.state_dict().items()}
        moments = {f"optimiser.{name}": value for name, value in flatten(self.critic.optimiser.state_dict()).items()}
        return {**weights, **moments, "steps": torch.tensor(self.critic.steps)}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        if self.critic is None:
            return
        optimiser = self.critic.optimiser
        self.critic.network.load_state_dict(_below("network.", state))
        optimiser.load_state_dict(unflatten(_below("optimiser.", state), optimiser.state_dict()))
        self.critic.steps = int(state["steps"])


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class AutoencodingConfig:
    """`Autoencoding` as a file describes it.

    Attributes:
        kl_weight: see `Autoencoding`.
        features: what a person calls a classifier, in whose features pictures are compared too; `models.trainer_of`
            finds it.
        feature_weight: of their distance.
        critic_from: the step from which on there is a critic; None for none.
        critic_weight: see `Autoencoding`. critic_channels: see `PatchCritic`. critic_rate: its learning rate.
    """

    kl_weight: float = 1e-6
    features: str | None = None
    feature_weight: float = 1.0
    critic_from: int | None = None
    critic_weight: float = 0.5
    critic_channels: int = 32
    critic_rate: float = 2e-4

    def __post_init__(self) -> None:
        for name in ("kl_weight", "feature_weight", "critic_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}; 0 is none")
        if self.critic_from is not None:
            at_least(0, critic_from=self.critic_from)
        at_least(1, critic_channels=self.critic_channels)
        positive("critic_rate", self.critic_rate)

    def build(self, network: nn.Module, features: Features | None = None) -> Autoencoding:
        """The objective, for this network.

        Args:
            features: of what `self.features` names.

        Raises:
            ValueError: they are not there, and are named.
        """
        if self.features is not None and features is None:
            raise ValueError(
                f"objective.features = {self.features!r} is found by models.trainer_of(config, folder); an objective "
                "that you make yourself needs them, AutoencodingConfig(…).build(network, features)"
            )
        config: Any = network.config
        critic = None
        if self.critic_from is not None:
            critic = Critic(config.image_channels, self.critic_channels, self.critic_from, self.critic_rate)
        return Autoencoding(
            config.latent_shape, self.kl_weight, features, self.feature_weight, critic, self.critic_weight
        )
