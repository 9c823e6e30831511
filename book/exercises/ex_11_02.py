"""Round to bfloat16 at random, so that the mean is right."""

import torch


def round_at_random(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return bfloat16: the neighbour of x below or above, right on average.

    x is float32 and finite.
    """
    # solution
    shape, device = x.shape, generator.device
    U = torch.randint(2**16, shape, generator=generator, device=device)
    bits = x.contiguous().view(torch.int32) + U.int()
    return (bits & -(2**16)).view(torch.float32).bfloat16()
    # end solution


def check(round_at_random):
    generator = torch.Generator().manual_seed(0)
    exact = torch.tensor([1.0, -0.5, 0.0, 3.25])
    rounded = round_at_random(exact, generator)
    assert rounded.dtype == torch.bfloat16, (
        f"bfloat16 is wanted, not {rounded.dtype}"
    )
    assert torch.equal(rounded.float(), exact), (
        "what bfloat16 knows exactly must stay as it is"
    )
    count = 200_000
    for value in (1.001, -1.001, 0.0371, 1.9999, -7e-5):
        x = torch.full((count,), value)
        rounded = round_at_random(x, generator).double()
        values = rounded.unique()
        assert len(values) == 2, f"{value}: both neighbours must come out"
        low, high = values.bfloat16()
        upward = torch.tensor(float("inf"), dtype=torch.bfloat16)
        between = low < x[0] < high and torch.nextafter(low, upward) == high
        assert between, f"{value}: only its two neighbours may come out"
        error = 4.5 * float(rounded.std()) / count**0.5
        mean = float(rounded.mean())
        assert abs(mean - float(x[0])) < error, (
            f"the mean of {value} came out as {mean}"
        )
