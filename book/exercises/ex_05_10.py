"""The widest transformer that a budget of operations buys."""

import math


def widest(budget: float, side: int, patch: int, depth: int = 12) -> int:
    """The largest width, a multiple of 16, whose blocks take at most `budget` operations; 0 if there is none."""
    # solution
    n = (side // patch) ** 2
    a, b, c = 12 * n + 6, 2 * n**2, -budget / depth
    d = (-b + math.sqrt(b**2 - 4 * a * c)) / (2 * a)
    return 16 * int(d / 16)
    # end solution


def check(widest):
    def cost(n, d, depth):
        return depth * (12 * n * d**2 + 2 * n**2 * d + 6 * d**2)

    for budget in (1e6, 1e9, 1e10):
        for side, patch, depth in (
            (16, 2, 4),
            (64, 2, 12),
            (64, 4, 12),
            (64, 8, 12),
        ):
            n, d = (side // patch) ** 2, widest(budget, side, patch, depth)
            assert d >= 0, f"the width must not be negative, got {d}"
            assert d % 16 == 0, f"the width must be a multiple of 16, got {d}"
            assert cost(n, d, depth) <= budget, (
                f"a width of {d} costs more than {budget:.0e}"
            )
            assert cost(n, d + 16, depth) > budget, (
                f"{d + 16} is still within {budget:.0e}"
            )
    assert [widest(1e10, 64, patch) for patch in (2, 4, 8)] == [176, 496, 1024]
