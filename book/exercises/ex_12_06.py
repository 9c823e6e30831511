"""The neighbourhood that makes a perfect model cover what you wish."""

import math


def smallest_k(n: int, m: int, wish: float) -> int:
    """The least k with which a perfect model covers this share."""
    # solution
    missed, k = 1.0, 0
    while 1 - missed < wish:
        missed *= (n - 1 - k) / (n + m - 1 - k)
        k += 1
    return k
    # end solution


def check(smallest_k):
    def covered(n, m, k):
        return 1 - math.comb(n - 1, k) / math.comb(n + m - 1, k)

    cases = ((1000, 1000, 0.99), (500, 5000, 0.99), (50, 40, 0.9), (10, 10, 0.9))
    for n, m, wish in cases:
        k = smallest_k(n, m, wish)
        assert covered(n, m, k) >= wish, f"k = {k} covers too little"
        assert k == 1 or covered(n, m, k - 1) < wish, f"k = {k} is more than needed"
    assert smallest_k(1000, 1000, 0.99) == 7, "as the approximation says"
