"""Timing contestants in turn in one process, so that whatever slows the machine for a while slows them all."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lavita.files import atomic_write_text
from lavita.results.rows import csv_text, text_of


def take_turns(
    contestants: dict[str, Callable[[], None]], rounds: int, wait: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of every call, one list a contestant: A B A B ..., after one call each that is not counted.

    wait returns once the device has done all it was given; it is called before each reading of the clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, call in contestants.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, interpolated linearly; of a single value, that value three times."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def columns(name: str, seconds: dict[str, list[float]], reference: str) -> dict[str, float | str]:
    """The columns that every measurement has: a contestant's seconds, and its ratio to the reference."""
    low, median, high = quartiles(seconds[name])
    ratio_low, middle, ratio_high = ratio(seconds[name], seconds[reference])
    return {
        "contestant": name,
        "seconds_median": median,
        "seconds_low": low,
        "seconds_high": high,
        "seconds_fastest": min(seconds[name]),
        "ratio": middle,
        "ratio_low": ratio_low,
        "ratio_high": ratio_high,
    }


def ratio(values: list[float], reference: list[float]) -> tuple[float, float, float]:
    """(lower quartile, ratio, upper quartile) of values against a reference measured in the same rounds.

    The ratio is that of the medians; the quartiles are those of the ratios of the single rounds.
    """
    low, _, high = quartiles([a / b for a, b in zip(values, reference, strict=True)])
    return low, statistics.median(values) / statistics.median(reference), high


def write_csv(target: str, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write rows to a file, or to standard output where target is "-", with exactly these columns."""
    text = csv_text([list(columns), *([text_of(row.get(key)) for key in columns] for row in rows)])
    if target == "-":
        sys.stdout.write(text)
    else:
        atomic_write_text(Path(target), text)
