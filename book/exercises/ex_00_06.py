"""The divergence of Gaussian pictures with independent pixels."""

import torch


def diagonal_kl(
    mean_1: torch.Tensor,
    log_var_1: torch.Tensor,
    mean_2: torch.Tensor,
    log_var_2: torch.Tensor,
) -> torch.Tensor:
    """Return KL(first ‖ second) in nats, [B], for pixels [B, D]."""
    # solution
    log_ratio = log_var_1 - log_var_2
    place = (mean_1 - mean_2) ** 2 / log_var_2.exp()
    return 0.5 * (place + log_ratio.exp() - 1 - log_ratio).sum(-1)
    # end solution


def check(diagonal_kl):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(4, 5, 7, generator=generator, dtype=torch.float64)
    mean_1, log_var_1, mean_2, log_var_2 = numbers
    got = diagonal_kl(mean_1, log_var_1, mean_2, log_var_2)
    assert got.shape == (5,), "give one divergence for each picture"
    p = torch.distributions.Normal(mean_1, (log_var_1 / 2).exp())
    q = torch.distributions.Normal(mean_2, (log_var_2 / 2).exp())
    wanted = torch.distributions.kl_divergence(p, q).sum(1)
    assert torch.allclose(got, wanted), (
        f"the first picture has {wanted[0]:.4f} nats, got {got[0]:.4f}"
    )
    tiny = torch.full((1, 7), -600.0, dtype=torch.float64)
    zero = torch.zeros(1, 7, dtype=torch.float64)
    same = diagonal_kl(zero, tiny, zero, tiny)
    assert same.item() == 0, "equal Gaussians, however narrow, are 0 nats apart"
