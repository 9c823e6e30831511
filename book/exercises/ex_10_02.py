"""Move a schedule to images of another scale."""

import torch


def schedule_for_scale(alpha_bar: torch.Tensor, c: float) -> torch.Tensor:
    """Return the ᾱ' that does to images c · x what ᾱ does to images x.

    "The same" means: a' c x + b' ε is a multiple of a x + b ε at each t.
    """
    # solution
    return alpha_bar / (alpha_bar + c**2 * (1 - alpha_bar))
    # end solution


def check(schedule_for_scale):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha_bar = torch.cos(t * torch.pi / 2) ** 2
    x, eps = 0.7, -0.4
    for c in (0.5, 1.0, 2.0, 127.5):
        new = schedule_for_scale(alpha_bar, c)
        assert new.shape == alpha_bar.shape, "one ᾱ' for each ᾱ"
        assert ((new >= 0) & (new <= 1)).all(), f"c = {c}: ᾱ' lies in [0, 1]"
        assert new[0] == 1, f"c = {c}: at t = 0 there is no noise"
        picture = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * eps
        scaled = new.sqrt() * c * x + (1 - new).sqrt() * eps
        # the same multiple for the signal and for the noise
        signal = new.sqrt() * c * (1 - alpha_bar).sqrt()
        noise = (1 - new).sqrt() * alpha_bar.sqrt()
        told = f"c = {c}: signal and noise must grow by one factor"
        assert torch.allclose(signal, noise, atol=1e-7), told
        assert ((picture * scaled) >= -1e-12).all(), told
    there = schedule_for_scale(alpha_bar[:-1], 3.0)
    back = schedule_for_scale(there, 1 / 3)
    assert torch.allclose(back, alpha_bar[:-1]), (
        "scaling there and back changes nothing"
    )
