"""From a prediction of v to the noise and to the score, without dividing by a."""

import torch


def eps_from_v(
    v: torch.Tensor, xt: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """Return ε from v = a ε − b x_0 and x_t = a x_0 + b ε, where a² + b² = 1."""
    # solution
    return b * xt + a * v
    # end solution


def score_from_v(
    v: torch.Tensor, xt: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """Return the score ∇ log p_t(x_t) that belongs to v; b > 0."""
    # solution
    return -(b * xt + a * v) / b
    # end solution


def check(eps_from_v, score_from_v):
    from diffusion_book import process, schedules

    schedule = schedules.zero_terminal_snr(schedules.linear(100))
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    for t in (1, 20, 99, 100):
        xt = process.add_noise(schedule, x0, t, eps)
        v = process.target("v", schedule, x0, eps, t)
        a, b = schedule.a(t), schedule.b(t)
        found = eps_from_v(v, xt, a, b)
        assert bool(torch.isfinite(found).all()), (
            f"NaN or infinity at t = {t}, where a = {float(a):.2g}"
        )
        assert torch.allclose(found, eps), (
            f"not the noise that was added at t = {t}"
        )
        score = score_from_v(v, xt, a, b)
        assert torch.allclose(
            score, process.target("score", schedule, x0, eps, t)
        ), f"not the score at t = {t}"
    a, b = torch.tensor(1.0), torch.tensor(0.0)
    assert torch.equal(eps_from_v(eps, x0, a, b), eps), (
        "at b = 0 the velocity is the noise itself; divide by nothing"
    )
