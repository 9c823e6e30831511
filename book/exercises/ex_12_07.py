"""One density in one unit, whatever scale the pictures were on."""

import math


def bits_per_dim(log_p: float, D: int, low: float, high: float) -> float:
    """From ln p(x), where the 256 values fill [low, high]."""
    # solution
    cell = (high - low) / 255
    return -log_p / (D * math.log(2)) - math.log2(cell)
    # end solution


def check(bits_per_dim):
    # A model that knows nothing costs eight bits, on every scale.
    for low, high in ((-1, 1), (0, 1), (0, 255), (-0.4242, 2.8215)):
        width = (high - low) * 256 / 255  # all 256 cells
        log_p = -784 * math.log(width)
        found = bits_per_dim(log_p, 784, low, high)
        assert abs(found - 8) < 1e-9, f"[{low}, {high}]: {found:.4f} bits, not 8"
    # And a factor of e in the density is one nat, shared by all dimensions.
    for D in (784, 3072):
        nat = bits_per_dim(0.0, D, 0, 1) - bits_per_dim(1.0, D, 0, 1)
        assert abs(nat * D * math.log(2) - 1) < 1e-9, "a nat is 1/ln 2 bits"
