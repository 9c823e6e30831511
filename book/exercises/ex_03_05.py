"""The posterior as a bridge between x_0 and x_t / a_t, for any s < t."""

import torch


def bridge(x0, xt, a_t: float, sigma_t: float, a_s: float, sigma_s: float):
    """Return the mean and the standard deviation of q(x_s | x_t, x_0).

    x0 and xt are tensors of one shape, and so is the mean; sigma is b / a.
    """
    # solution
    w = sigma_s**2 / sigma_t**2
    mean = a_s * ((1 - w) * x0 + w * xt / a_t)
    return mean, a_s * sigma_s * (1 - w) ** 0.5
    # end solution


def check(bridge):
    from diffusion_book import process, schedules

    schedule = schedules.cosine(50)
    generator = torch.Generator().manual_seed(0)
    x0, xt = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    for t, s in [(50, 49), (40, 7), (9, 8), (1, 0), (30, 0)]:
        a_t, a_s = float(schedule.at(t).a), float(schedule.at(s).a)
        sigma_t, sigma_s = float(schedule.at(t).sigma), float(schedule.at(s).sigma)
        mean, std = bridge(x0, xt, a_t, sigma_t, a_s, sigma_s)
        library = process.posterior(schedule, xt, x0, t, s)
        assert torch.allclose(mean, library.mean), (
            f"the mean from t = {t} to s = {s} is not the posterior's"
        )
        assert abs(float(std) - float(library.std)) < 1e-9, (
            f"the standard deviation from {t} to {s} is off"
        )
    # Two hops with the same x0 are one hop.
    late, middle, early = [
        (float(schedule.at(k).a), float(schedule.at(k).sigma)) for k in (40, 25, 10)
    ]
    one_mean, one_std = bridge(x0, xt, *late, *early)
    halfway, halfway_std = bridge(x0, xt, *late, *middle)
    two_mean, last_std = bridge(x0, halfway, *middle, *early)
    slope = (bridge(x0, halfway + 1, *middle, *early)[0] - two_mean).mean()
    assert torch.allclose(one_mean, two_mean), "two hops must have the mean of one"
    assert abs(last_std**2 + (slope * halfway_std) ** 2 - one_std**2) < 1e-9, (
        "and its variance"
    )
