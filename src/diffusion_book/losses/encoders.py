"""What trains an encoder: how far a Gaussian is from the standard one, and what a critic and features add. Chapter 13.

Every loss is returned per example, [B].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_book._checks import check_same_shape

MOST = 1e4
"""Of `adaptive_weight`, which else grows without bound where a critic no longer says anything."""


def kl_to_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) ‖ N(0, 1)), summed over all numbers of an example. Chapters 0 and 13.

    ½ Σ (mean² + exp(log_var) − 1 − log_var): [B, …] each → [B] nats.

    Raises:
        ValueError: the shapes differ.

    Source: Kingma and Welling 2014, appendix B.
    """
    check_same_shape("log_var", log_var, "the mean", mean)
    mean, log_var = mean.float(), log_var.float()
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(1)


def feature_distance(maps: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """How far two batches of pictures are apart in the features of a network. Chapter 13.

    At each position of a map the features are brought to length 1; their squared distance is averaged over positions
    and summed over maps.

    Args:
        maps, others: of as many layers, [B, C_i, H_i, W_i] each.

    Returns:
        [B], from 0 to 4 a map.

    Raises:
        ValueError: there are no maps, or others of another number or shape.

    Source: Zhang et al. 2018, equation 1, with all weights 1: nothing is fitted to what people see.
    """
    if not maps or len(maps) != len(others):
        raise ValueError(f"maps of as many layers are compared, got {len(maps)} and {len(others)}")
    total = maps[0].new_zeros(len(maps[0]), dtype=torch.float32)
    for one, other in zip(maps, others):
        check_same_shape("a map", other, "the other", one)
        total = total + (_unit(one) - _unit(other)).square().sum(1).flatten(1).mean(1)
    return total


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    # Not `norm`, whose gradient is NaN where all features are 0, as behind a ReLU they can be.
    return features * (features.square().sum(1, keepdim=True) + 1e-10).rsqrt()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The hinge loss of a critic: real pictures above 1, others below −1, and no more. Chapter 13.

    Args:
        real, fake: its answers [B, …], one for each patch.

    Returns:
        [B].

    Source: Lim and Ye 2017, as Zhang et al. 2019 write it (SAGAN, end of section 3).
    """
    return 0.5 * ((1 - real.float()).relu() + (1 + fake.float()).relu()).flatten(1).mean(1)


def fooling_loss(fake: Tensor) -> Tensor:
    """−D(x̂), the mean over the critic's answers [B, …]: what who is judged can do about it. Chapter 13.

    Returns:
        [B].

    Source: that of `critic_loss`, Zhang et al. 2019, end of section 3.
    """
    return -fake.float().flatten(1).mean(1)


def adaptive_weight(error: Tensor, fooling: Tensor, last_layer: Tensor) -> Tensor:
    """λ = ‖∇ error‖ / (‖∇ fooling‖ + 10⁻⁴): both losses then pull the last layer as hard. Chapter 13.

    Args:
        error, fooling: two losses, single numbers, of which `last_layer` is a part.
        last_layer: weights of the last layer of what is trained.

    Returns:
        λ ≤ 10⁴, a single number without a gradient.

    Source: Esser et al. 2021, equation 7; the bound is that of their code.
    """
    pulls = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (error, fooling)]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(max=MOST).detach()
