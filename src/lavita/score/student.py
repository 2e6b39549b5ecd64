"""Student's t distribution: the quantiles that intervals are made with."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache
def student_quantile(probability: float, freedom: int) -> float:
    """The value that a Student t variable stays below with a probability in 0.5..1: bisection on its distribution.

    With x = freedom^(1/2) tan(u) the density becomes cos(u)^(freedom - 1) up to a factor: a smooth finite integral.
    """
    low, high = 0.0, math.pi / 2
    whole = cosine_integral(math.pi / 2, freedom - 1)
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 + cosine_integral(middle, freedom - 1) / (2 * whole) < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def cosine_integral(end: float, power: int, pieces: int = 2000) -> float:
    """Integral of cos(u)^power from 0 to end by Simpson's rule."""
    step = end / pieces
    weights = (1 if i in (0, pieces) else 4 if i % 2 else 2 for i in range(pieces + 1))
    return step / 3 * sum(weight * math.cos(i * step) ** power for i, weight in enumerate(weights))
