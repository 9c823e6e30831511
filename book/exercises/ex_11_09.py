"""Choose a learning rate by losses on the same examples."""

import torch


def choose(rates: list[float], losses: torch.Tensor) -> float:
    """Return the largest rate that is not worse than the best.

    Not worse: by at most two standard errors of the paired difference.
    losses is [R, N], the same N examples for each of the R rates.
    """
    # solution
    best = losses[losses.mean(1).argmin()]
    worse = losses - best
    error = worse.std(1) / worse.shape[1] ** 0.5
    as_good = worse.mean(1) <= 2 * error
    return max(rate for rate, good in zip(rates, as_good) if good)
    # end solution


def check(choose):
    generator = torch.Generator().manual_seed(0)
    hard = torch.rand(400, generator=generator, dtype=torch.float64)
    noise = 0.01 * torch.randn(4, 400, generator=generator, dtype=torch.float64)
    level = torch.tensor([0.2, 0.02, 0.0, 0.3], dtype=torch.float64)
    rates = [1e-4, 1e-3, 3e-3, 1e-2]
    losses = hard + level[:, None] + noise
    found = choose(rates, losses)
    assert found == 3e-3, f"the last rate is plainly worse; got {found}"
    order = [2, 0, 3, 1]
    found = choose([rates[i] for i in order], losses[order])
    assert found == 3e-3, "the rates may come in any order"
    level[3] = 0.0003
    found = choose(rates, hard + level[:, None] + noise)
    assert found == 1e-2, "where a larger rate is as good, take the larger"
    level[3] = 0.01
    found = choose(rates, hard + level[:, None] + noise)
    assert found == 3e-3, (
        "a small difference counts where the same examples show it"
    )
