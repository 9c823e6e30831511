"""What a model costs that is nearly always wrong."""

import math


def least_dimension(good: float, bits: float) -> int:
    """The least D at which the mixture costs less than `bits` more."""
    # solution
    return math.floor(-math.log2(good) / bits) + 1
    # end solution


def check(least_dimension):
    for good, bits in ((1e-6, 0.01), (0.01, 0.01), (0.5, 0.25), (1e-9, 1e-3)):
        D = least_dimension(good, bits)
        assert -math.log2(good) / D < bits, f"{D} is too small for {good:g}"
        assert -math.log2(good) / (D - 1) >= bits, f"{D} is too large for {good:g}"
