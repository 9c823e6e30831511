"""Say the root of the mean square after n steps."""


def distance(n: int) -> float:
    """Return the root of the mean square after n steps."""
    # solution
    return n**0.5
    # end solution


def check(distance):
    assert distance(9) == 3, "see the text"
