"""How many bad pictures a model may draw, after some were seen."""

import math


def largest_share(n: int, m: int, level: float = 0.05) -> float:
    """The p at which m or fewer bad pictures of n have this chance."""
    # solution
    if m == n:
        return 1.0
    # ln j! for all j: the binomial coefficients themselves may be too large
    ln = [math.lgamma(j + 1) for j in range(n + 1)]
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        a, b = math.log(p), math.log1p(-p)
        terms = (
            ln[n] - ln[j] - ln[n - j] + j * a + (n - j) * b for j in range(m + 1)
        )
        low, high = (p, high) if sum(map(math.exp, terms)) > level else (low, p)
    return low
    # end solution


def check(largest_share):
    from scipy.stats import beta

    for n in (1, 10, 64):
        clean = 1 - 0.05 ** (1 / n)
        assert abs(largest_share(n, 0) - clean) < 1e-9, (
            "with none bad: the rule of three"
        )
    cases = ((10, 1, 0.05), (64, 3, 0.05), (100, 50, 0.01), (3000, 1000, 0.05))
    for n, m, level in cases:
        exact = beta.ppf(1 - level, m + 1, n - m)
        found = largest_share(n, m, level)
        assert abs(found - exact) < 1e-6, (
            f"{m} of {n} at {level}: expected {exact:.6f}, got {found:.6f}"
        )
    assert largest_share(5, 5) == 1, "if all were bad, nothing can be ruled out"
