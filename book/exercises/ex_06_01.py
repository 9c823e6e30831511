"""Find the β of the schedule that visits only some of the times of another."""

import torch
from diffusion_book import process, schedules


def respaced_beta(schedule: schedules.Schedule, times: list[int]) -> torch.Tensor:
    """Return the n values of β' of a schedule whose step i ends at times[i − 1].

    times rises: 0 < times[0] < … < times[n − 1] = T. `schedule.alpha_bar` is the table ᾱ_0 … ᾱ_T.
    """
    # solution
    alpha_bar = schedule.alpha_bar[[0, *times]]
    return 1 - alpha_bar[1:] / alpha_bar[:-1]
    # end solution


def check(respaced_beta):
    schedule, times = schedules.cosine(), [1, 30, 200, 700, 999, 1000]
    beta = respaced_beta(schedule, times)
    assert beta.shape == (6,), (
        f"one β' for each of the 6 steps, got shape {tuple(beta.shape)}"
    )
    skipping = schedules.Schedule(beta)
    assert torch.allclose(skipping.alpha_bar[1:], schedule.alpha_bar[times]), (
        "ᾱ'_i must be ᾱ at times[i − 1]"
    )
    generator = torch.Generator().manual_seed(0)
    x0, xt = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    for i in range(1, 7):
        ours = process.posterior(skipping, xt, x0, i)
        theirs = process.posterior(
            schedule, xt, x0, times[i - 1], [0, *times][i - 1]
        )
        assert torch.allclose(ours.mean, theirs.mean), (
            f"the posterior means of step {i} differ"
        )
        assert torch.allclose(ours.std, theirs.std), (
            f"the posterior standard deviations of step {i} differ"
        )
    everything = respaced_beta(schedule, list(range(1, 1001)))
    assert torch.allclose(everything, schedule.beta[1:]), (
        "visiting every time must give the schedule's own β back"
    )
