"""Say how many steps lead a distance away."""


def steps(distance: float) -> float:
    """Return how many steps lead a distance away."""
    # solution
    return distance**2
    # end solution


def check(steps):
    assert steps(3) == 9, "see the text"
