"""From a prediction of v to the score, where a may be zero."""

import torch


def score_from_v(
    v: torch.Tensor, xt: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """Return the score ∇ log q(x_t) that belongs to v; a ≥ 0 and b > 0."""
    # solution
    eps = b * xt + a * v
    return -eps / b
    # end solution


def check(score_from_v):
    from diffusion_book import predictions, process, schedules

    schedule = schedules.zero_terminal_snr(schedules.linear(100))
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    for t in (1, 20, 99, 100):
        xt = process.add_noise(schedule, x0, t, eps)
        v = predictions.target("v", schedule, x0, eps, t)
        _, a, b = schedule.at(t)
        score = score_from_v(v, xt, a, b)
        finite = bool(torch.isfinite(score).all())
        assert finite, f"NaN or infinity at t = {t}, where a = {float(a):.2g}"
        expected = predictions.target("score", schedule, x0, eps, t)
        assert torch.allclose(score, expected), f"not the score at t = {t}"
    # Single precision, a tiny b: x_t − a x_0 would cancel almost everything.
    a, b = torch.tensor([1 - 5e-7, 1e-3], dtype=torch.float32)
    x0, eps = torch.randn(2, 1000, generator=generator, dtype=torch.float32)
    x0 = 30 * x0
    score = score_from_v(a * eps - b * x0, a * x0 + b * eps, a, b)
    error = float((score * b + eps).abs().max())
    assert error < 1e-3, (
        f"ε is off by {error:.2g} at b = 0.001; do not go through x0"
    )
