"""Draw noise that an example keeps in whatever batch it stands."""

import torch


def seeded_noise(shape: tuple[int, ...], seeds: list[int]) -> torch.Tensor:
    """Return standard normal noise [len(seeds), *shape]; example i depends on seeds[i] alone."""
    # solution
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack(
        [torch.randn(shape, generator=generator) for generator in generators]
    )
    # end solution


def check(seeded_noise):
    together = seeded_noise((1, 28, 28), [3, 7, 100])
    assert together.shape == (3, 1, 28, 28), (
        f"expected [3, 1, 28, 28], got {tuple(together.shape)}"
    )
    assert torch.equal(seeded_noise((1, 28, 28), [7])[0], together[1]), (
        "example 7 must not depend on its batch"
    )
    assert torch.equal(seeded_noise((1, 28, 28), [100, 3])[1], together[0]), (
        "nor on its place in it"
    )
    assert not torch.equal(together[0], together[1]), (
        "two seeds must give two noises"
    )
    many = seeded_noise((50,), list(range(400)))
    assert abs(float(many.mean())) < 5 / 20_000**0.5, (
        "the mean over many seeds must be 0"
    )
    assert abs(float(many.var()) - 1) < 5 * (2 / 20_000) ** 0.5, (
        "the variance over many seeds must be 1"
    )
