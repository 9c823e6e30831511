"""Hide two conditions of a training example, each with a coin of its own."""

import torch


def drop_each(
    y: torch.Tensor,
    z: torch.Tensor,
    no_y: int,
    no_z: int,
    share: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return y and z [B], a random share of each hidden: no_y, no_z."""
    # solution
    hide_y = torch.rand(len(y), generator=generator) < share
    hide_z = torch.rand(len(z), generator=generator) < share
    return torch.where(hide_y, no_y, y), torch.where(hide_z, no_z, z)
    # end solution


def check(drop_each):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(10, (40_000,), generator=generator)
    z = torch.randint(3, (40_000,), generator=generator)
    before = y.clone(), z.clone()
    y_told, z_told = drop_each(y, z, 10, 3, 0.2, generator)
    for given, kept in zip((y, z), before):
        assert torch.equal(given, kept), "leave y and z alone"
    no_y, no_z = y_told == 10, z_told == 3
    assert torch.equal(y_told[~no_y], y[~no_y]), (
        "a class that is told must be the class"
    )
    assert torch.equal(z_told[~no_z], z[~no_z]), (
        "a style that is told must be the style"
    )
    for name, found, wanted in (
        ("class alone", no_y & ~no_z, 0.16),
        ("style alone", no_z & ~no_y, 0.16),
        ("both", no_y & no_z, 0.04),
    ):
        share = found.double().mean().item()
        assert abs(share - wanted) < 0.01, (
            f"{name}: hidden in {share:.3f}, not {wanted}"
        )
