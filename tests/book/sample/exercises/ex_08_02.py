"""Say the mean square of a walk of n steps."""


def mean_square(n: int) -> float:
    """Return the mean square of a walk of n steps."""
    # solution
    return float(n)
    # end solution


def check(mean_square):
    assert mean_square(4) == 4, "see the text"
