"""Draw noise that an example keeps in whatever batch it stands."""

import torch


def seeded_noise(shape: tuple[int, ...], seeds: list[int]) -> torch.Tensor:
    """Return standard normal noise [len(seeds), *shape].

    Example i depends on seeds[i] alone.
    """
    # solution
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=g) for g in generators])
    # end solution


def check(seeded_noise):
    together = seeded_noise((1, 28, 28), [3, 7, 100])
    shape = tuple(together.shape)
    assert shape == (3, 1, 28, 28), f"expected [3, 1, 28, 28], got {shape}"
    alone = seeded_noise((1, 28, 28), [7])[0]
    assert torch.equal(alone, together[1]), "its batch must not matter"
    second = seeded_noise((1, 28, 28), [100, 3])[1]
    assert torch.equal(second, together[0]), "its place must not matter"
    same = torch.equal(together[0], together[1])
    assert not same, "two seeds must give two noises"
    many = seeded_noise((50,), list(range(400)))
    mean, off = float(many.mean()), abs(float(many.var()) - 1)
    assert abs(mean) < 5 / 20_000**0.5, "over many seeds the mean is 0"
    assert off < 5 * (2 / 20_000) ** 0.5, "… and the variance is 1"
