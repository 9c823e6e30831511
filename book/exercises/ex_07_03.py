"""Find the step that keeps the marginals with a wanted amount of fresh noise."""

import math

import torch


def coefficients(
    a_t: float, b_t: float, a_s: float, b_s: float, std: float
) -> tuple[float, float]:
    """Return m_0 and m_t of x_s = m_0 x_0 + m_t x_t + std z.

    Raise a ValueError where std is not in 0 … b_s.
    """
    # solution
    if not 0 <= std <= b_s:
        raise ValueError(f"std must lie in 0 … b_s = {b_s}, got {std}")
    m_t = math.sqrt(b_s**2 - std**2) / b_t
    return a_s - a_t * m_t, m_t
    # end solution


def check(coefficients):
    generator = torch.Generator().manual_seed(0)
    eps, z = torch.randn(2, 100_000, generator=generator, dtype=torch.float64)
    for std in (0.0, 0.3, 0.6):
        m_0, m_t = coefficients(0.6, 0.8, 0.8, 0.6, std)
        x_s = m_0 * 2.0 + m_t * (0.6 * 2.0 + 0.8 * eps) + std * z
        assert abs(float(x_s.mean()) - 1.6) < 0.02, "the mean must be a_s x_0"
        assert abs(float(x_s.std()) - 0.6) < 0.01, "the deviation must be b_s"
    try:
        coefficients(0.6, 0.8, 0.8, 0.6, 0.7)
    except ValueError:
        return
    raise AssertionError(
        "std = 0.7 is more noise than there is at s, so it must raise a ValueError"
    )
