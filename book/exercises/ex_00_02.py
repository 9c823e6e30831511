"""The best guess of a number that is one of several, seen through noise."""

import torch


def posterior_mean(
    xt: torch.Tensor,
    values: torch.Tensor,
    chances: torch.Tensor,
    a: float,
    b: float,
) -> torch.Tensor:
    """Return E[x_0 | x_t], [N], for x_t = a x_0 + b·noise, [N].

    x_0 is one of `values` [K] with the probabilities `chances` [K].
    """
    # solution
    log_joint = chances.log() - (xt[:, None] - a * values) ** 2 / (2 * b**2)
    return log_joint.softmax(1) @ values
    # end solution


def check(posterior_mean):
    double = {"dtype": torch.float64}
    xt = torch.linspace(-3, 3, 13, **double)
    two, fair = torch.tensor([-1.0, 1.0], **double), torch.full((2,), 0.5, **double)
    got = posterior_mean(xt, two, fair, 0.8, 0.6)
    assert got.shape == xt.shape, "give one guess for each x_t"
    assert torch.allclose(got, torch.tanh(0.8 * xt / 0.36)), (
        "for ±1 and a fair coin it must be tanh(a x_t / b²)"
    )
    values = torch.tensor([-2.0, 0.5, 1.0], **double)
    chances = torch.tensor([0.2, 0.7, 0.1], **double)
    generator = torch.Generator().manual_seed(0)
    x0 = values[torch.multinomial(chances, 400_000, True, generator=generator)]
    seen = 0.7 * x0 + 0.5 * torch.randn(len(x0), generator=generator, **double)
    guess = posterior_mean(seen, values, chances, 0.7, 0.5)
    for name, probe in {"1": seen**0, "x_t": seen, "x_t > 0": seen > 0}.items():
        miss = (
            x0 - guess
        ) * probe  # averages to zero for the conditional mean alone
        error = miss.std() / len(x0) ** 0.5
        assert miss.mean().abs() < 5 * error, (
            f"the mean of (x0 − guess)·({name}) is {miss.mean():.4f}, not 0"
        )
    sharp = posterior_mean(xt, values, chances, 1.0, 1e-4)
    assert sharp.isfinite().all(), "a small b must not overflow: use logarithms"
