"""Find the β of the schedule that visits only some of another's times."""

import torch
from diffusion_book import process, schedules


def respaced_beta(schedule, times: list[int]) -> torch.Tensor:
    """Return the n values of β' of the schedule that visits these times.

    They rise: 0 < times[0] < … < times[n − 1] = T. The table
    `schedule.alpha_bar` holds ᾱ_0 … ᾱ_T.
    """
    # solution
    alpha_bar = schedule.alpha_bar[[0, *times]]
    return 1 - alpha_bar[1:] / alpha_bar[:-1]
    # end solution


def check(respaced_beta):
    schedule, times = schedules.cosine(), [1, 30, 200, 700, 999, 1000]
    beta = respaced_beta(schedule, times)
    assert beta.shape == (6,), f"6 steps, but shape {tuple(beta.shape)}"
    skipping = schedules.Discrete(beta)
    same = torch.allclose(skipping.alpha_bar[1:], schedule.alpha_bar[times])
    assert same, "ᾱ'_i must be ᾱ at times[i − 1]"
    g = torch.Generator().manual_seed(0)
    x0, xt = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)
    for i in range(1, 7):
        t, s = times[i - 1], [0, *times][i - 1]
        ours = process.posterior(skipping, xt, x0, i)
        theirs = process.posterior(schedule, xt, x0, t, s)
        same = torch.allclose(ours.mean, theirs.mean)
        assert same, f"the posterior means of step {i} differ"
        same = torch.allclose(ours.std, theirs.std)
        assert same, f"the posteriors of step {i} differ in width"
    everything = respaced_beta(schedule, list(range(1, 1001)))
    same = torch.allclose(everything, schedule.beta[1:])
    assert same, "visiting every time must give the schedule's own β"
