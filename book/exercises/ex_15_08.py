"""Measure how straight a path is, at uneven times."""

import math

import torch


def straightness(points: torch.Tensor, times: torch.Tensor) -> float:
    """Return S of points [steps + 1, N, D] at falling times."""
    # solution
    length = times[:-1] - times[1:]
    whole = points[0] - points[-1]
    u = (points[:-1] - points[1:]) / length[:, None, None]
    bend = (whole / length.sum() - u).square().sum(-1).mean(1)
    share = length / length.sum()
    return float(
        (share * bend).sum() / (whole / length.sum()).square().sum(-1).mean()
    )
    # end solution


def check(straightness):
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    times = torch.tensor([1.0, 0.7, 0.65, 0.2, 0.0], dtype=torch.float64)
    line = times[:, None, None] * start + (1 - times)[:, None, None] * end
    assert abs(straightness(line, times)) < 1e-12, (
        "a straight line at an even pace has S = 0"
    )
    # In the plane from (1, 0) over (x, h) to (0, 0): a corner at the time t.
    for t, h in ((0.5, 0.5), (0.25, 1.0)):
        corner = torch.tensor(
            [[[1.0, 0.0]], [[t, h]], [[0.0, 0.0]]], dtype=torch.float64
        )
        at = torch.tensor([1.0, t, 0.0], dtype=torch.float64)
        expected = h**2 / (1 - t) + h**2 / t
        found = straightness(corner, at)
        assert math.isclose(found, expected, rel_tol=1e-9), (
            f"a corner of height {h} at t = {t} has S = {expected:.3f}, got {found:.3f}"
        )
        halfway = (corner[0] + corner[1]) / 2
        cut = torch.cat([corner[:1], halfway[None], corner[1:]])
        cut_at = torch.tensor([1.0, (1 + t) / 2, t, 0.0], dtype=torch.float64)
        assert math.isclose(straightness(cut, cut_at), expected, rel_tol=1e-9), (
            "a piece that is cut in two must count as before: weigh each by its length in time"
        )
