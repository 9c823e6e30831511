"""Find the images of any step, without the steps before it."""

import torch
from diffusion_book.training.order import seed_of


def batch_at(step: int, n: int, B: int, seed: int) -> torch.Tensor:
    """Return [B] indices in 0 … n − 1.

    Epoch e goes through `torch.randperm(n)`, drawn from a generator
    with the seed `seed_of(seed, "epoch", e)`.
    """
    # solution
    place = torch.arange(step * B, (step + 1) * B)
    orders = {}
    for epoch in (place // n).unique().tolist():
        generator = torch.Generator().manual_seed(seed_of(seed, "epoch", epoch))
        orders[epoch] = torch.randperm(n, generator=generator)
    return torch.stack([orders[int(p) // n][p % n] for p in place])
    # end solution


def check(batch_at):
    from diffusion_book.training.order import batch_index

    n, B, seed = 10, 4, 3
    row = torch.cat([batch_at(step, n, B, seed) for step in range(10)])
    assert row.shape == (40,), (
        f"10 batches of 4 are 40 indices, not {tuple(row.shape)}"
    )
    for epoch in row.reshape(4, n):
        once = torch.equal(epoch.sort().values, torch.arange(n))
        assert once, f"each image once an epoch, not {epoch.tolist()}"
    assert not torch.equal(row[:n], row[n : 2 * n]), (
        "epochs need orders of their own"
    )
    alone = batch_at(7, n, B, seed)
    assert torch.equal(alone, row[28:32]), (
        "a step's batch must not depend on history"
    )
    large = torch.cat([batch_at(step, 3, 8, 0) for step in range(3)])
    whole = all(
        torch.equal(e.sort().values, torch.arange(3)) for e in large.reshape(8, 3)
    )
    assert whole, "a batch may be longer than an epoch"
    for step in (0, 2, 5, 99):
        same = torch.equal(
            batch_at(step, n, B, seed), batch_index(n, B, step, seed)
        )
        assert same, f"the library has another batch at step {step}"
