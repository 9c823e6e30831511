"""Weigh the losses of unequal parts, so that their plain average is right."""

import torch


def factors(sizes: list[int]) -> torch.Tensor:
    """Return [K]: what each process multiplies its mean loss by.

    The processes' gradients are then averaged with equal weights.
    """
    # solution
    n = torch.tensor(sizes, dtype=torch.float64)
    return len(sizes) * n / n.sum()
    # end solution


def check(factors):
    generator = torch.Generator().manual_seed(0)
    for sizes in ([5, 5, 5], [7, 2], [1, 0, 4, 11]):
        g = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64)
        parts = [part.sum(0) / max(1, len(part)) for part in g.split(sizes)]
        f = factors(sizes)
        assert len(f) == len(sizes), (
            f"one factor for each of {len(sizes)} processes"
        )
        empty = [float(f[k]) for k, n in enumerate(sizes) if n == 0]
        assert not any(empty), "a part with no example has the factor zero"
        average = sum(f[k] * part for k, part in enumerate(parts)) / len(sizes)
        same = torch.allclose(average, g.mean(0))
        assert same, (
            f"parts of {sizes}: the average is not the whole batch's gradient"
        )
    assert torch.allclose(factors([4, 4]).double(), torch.ones(2).double()), (
        "equal parts need no factor"
    )
