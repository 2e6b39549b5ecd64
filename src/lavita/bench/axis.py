"""Axes of charts: where a value lies, and which round values are marked."""

from __future__ import annotations

import math
from collections.abc import Sequence

NARROW = 0.3  # powers of ten: within less, a logarithmic axis is nearly even, and so are its ticks


def even_ticks(low: float, high: float) -> list[float]:
    """Two to seven multiples of 1, 2, 2.5 or 5 times a power of ten between two values."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{step * number:.6g}") for number in range(first, last + 1)]


class LogAxis:
    """A logarithmic axis with some room at both ends, from pixel `start` to pixel `stop`; values above 0."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.08 * (high - low), 0.05)
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis, the fewer of a power of ten the more powers there are."""
        span = self.high - self.low
        if span < NARROW:
            return even_ticks(10**self.low, 10**self.high)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 1.2, 1.5, 2, 3, 4, 5, 7) if span < 0.8 else (1, 2, 5) if span < 2.5 else (1,)
        values = [float(f"{step}e{power}") for power in powers for step in steps]
        return [value for value in values if self.low <= math.log10(value) <= self.high]


class LinearAxis:
    """An even axis, for values that may be 0 or below."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or 0.5
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        return even_ticks(self.low, self.high)
