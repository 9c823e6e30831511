"""From EDM's network to x̂0, for a schedule of any scale."""

import math


def x0_from_F(F, xt, a: float, b: float, sigma_data: float):
    """Return x̂0 for x_t = a x0 + b ε, with F a function of (input, ¼ ln σ)."""
    # solution
    r = math.sqrt(b**2 + a**2 * sigma_data**2)
    clock = (math.log(b) - math.log(a)) / 4
    return (a * sigma_data**2 / r**2) * xt + (b * sigma_data / r) * F(xt / r, clock)
    # end solution


def check(x0_from_F):
    import torch
    from diffusion_book import data, denoise, predictions, schedules

    # A perfect F for Gaussian data of the standard deviation σ_d outputs zero.
    s = 0.5
    normal = data.GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 2, dtype=torch.float64),
        s**2 * torch.eye(2, dtype=torch.float64)[None],
    )

    def silent(x, clock):
        return torch.zeros_like(x)

    generator = torch.Generator().manual_seed(0)
    xt = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    for schedule, t in [(schedules.Cosine(), 0.3), (schedules.Flow(), 0.8)]:
        level = schedule.at(t)
        expected = denoise.exact(normal, schedule)(xt, torch.full((5,), t))
        found = x0_from_F(silent, xt, float(level.a), float(level.b), s)
        assert torch.allclose(found, expected), (
            "the share that is passed by is wrong"
        )

    # The library, where nothing is scaled and where everything is.
    seen = []

    def network(x, clock):
        seen.append((x, clock))
        return x.sin()

    edm = schedules.EDM(sigma_data=s)
    for scale in (1.0, 0.1):
        found = x0_from_F(network, scale * xt, scale, scale * 2.0, s)
        x, clock = seen[-1]
        assert (
            abs(float(x.std()) / float(xt.std() / (4 + s**2) ** 0.5) - 1) < 1e-9
        ), "the network must see x / √(σ² + σ_d²)"
        assert abs(clock - math.log(2) / 4) < 1e-9, "the network is told ¼ ln σ"
        expected = predictions.to_x0("F", x.sin(), edm, xt, torch.full((5,), 2.0))
        assert torch.allclose(found, expected), (
            "x0 = c_skip x + c_out F, with x = x_t / a and σ = b / a"
        )

    last = x0_from_F(network, xt, 1e-30, 1.0, s)
    assert torch.allclose(last, s * xt.sin()), "where a is tiny, x0 is σ_d F"
