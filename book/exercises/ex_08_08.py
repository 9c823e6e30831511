"""Give guided pictures the contrast of pictures without guidance."""

import torch


def rescaled(x_w: torch.Tensor, x_c: torch.Tensor, phi: float) -> torch.Tensor:
    """Return x_w [B, C, H, W], each picture with its std rescaled."""
    # solution
    wanted, found = (x.flatten(1).std(1, correction=0) for x in (x_c, x_w))
    ratio = torch.where(found > 0, wanted / found, 1.0)
    return x_w * (phi * ratio + 1 - phi)[:, None, None, None]
    # end solution


def check(rescaled):
    generator = torch.Generator().manual_seed(0)
    x_c = torch.randn(3, 2, 8, 8, generator=generator, dtype=torch.float64)
    x_w = torch.tensor([2.0, 5.0, 0.5])[:, None, None, None] * x_c + 0.1
    std_c, std_w = x_c.flatten(1).std(1), x_w.flatten(1).std(1)
    for phi in (0.0, 0.7, 1.0):
        found = rescaled(x_w, x_c, phi)
        assert found.shape == x_w.shape, f"the shape must stay {tuple(x_w.shape)}"
        wanted = phi * std_c + (1 - phi) * std_w
        assert torch.allclose(found.flatten(1).std(1), wanted), (
            f"φ = {phi}: each picture's std must be φ std_c + (1 − φ) std_w"
        )
        assert torch.allclose(
            found[0] / x_w[0], found[0, 0, 0, 0] / x_w[0, 0, 0, 0]
        ), "a picture is multiplied by one number"
    grey = torch.full((1, 2, 8, 8), 0.3, dtype=torch.float64)
    assert torch.equal(rescaled(grey, x_c[:1], 0.7), grey), (
        "a picture of one grey must stay as it is"
    )
