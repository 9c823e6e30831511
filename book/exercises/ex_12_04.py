"""Two laws that the Fréchet distance cannot tell apart."""

import torch


def _law(*values: float) -> torch.Tensor:
    """Equally likely values, as a column."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


def alike() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """P, Q and R with d(P, Q) = d(P, R) = 0 = MMD(P, R)."""
    # solution
    root = 3**0.5
    P, Q = _law(-1, 1), _law(2, *[-0.5] * 4)
    return P, Q, _law(-root, root, 0, 0, 0, 0)
    # end solution


def check(alike):
    P, Q, R = alike()

    def mmd(x, y):
        xx, yy, xy = ((p @ q.T + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
        return float(xx.mean() + yy.mean() - 2 * xy.mean())  # all pairs: exact

    for other, name in ((Q, "Q"), (R, "R")):
        gap = torch.cdist(P, other).min()
        assert gap > 0.1 * P.std(correction=0), (
            f"P and {name} (nearly) share a point"
        )
        means = P.mean() - other.mean()
        stds = P.std(correction=0) - other.std(correction=0)
        d2 = float(means**2 + stds**2)  # the Fréchet distance on the line
        assert d2 < 1e-9, f"the Fréchet distance of P and {name} is {d2:.3g}"
    assert mmd(P, Q) > 1e-3, f"MMD² does not see Q: {mmd(P, Q):.3g}"
    assert abs(mmd(P, R)) < 1e-9, f"MMD² sees R: {mmd(P, R):.3g}"
