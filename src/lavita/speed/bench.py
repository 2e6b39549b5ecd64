"""Cases measured one after the other under a time limit: what failed or found no time is a row too, with its reason."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lavita.speed.networks import waiter
from lavita.speed.timing import quartiles

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
MOST_REPEATS = 100
LONGEST_REASON = 300


@dataclass(frozen=True)
class Row:
    """One number. repeats: timed calls behind it; spread: between their quartiles, in the same unit; peak_bytes: of the
    accelerator's memory in this case, None on a CPU. reason: why a case has no number (status failed or skipped).
    """

    part: str
    name: str
    quantity: str
    value: float | None
    unit: str
    repeats: int
    spread: float
    status: str = OK
    reason: str = ""
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Quantity:
    """What a case found out, one of several: its name, value and unit, and how well it is known."""

    name: str
    value: float
    unit: str
    repeats: int = 1
    spread: float = 0.0


@dataclass(frozen=True)
class Case:
    """One thing to measure; measure is called once, with a stopwatch that knows how long it may take."""

    name: str
    measure: Callable[[Stopwatch], Sequence[Quantity]]


@dataclass(frozen=True)
class Setting:
    """Where and how large. tiny: sizes that a test on a CPU can do; official: a checkout of Vchitect/Latte, or None."""

    device: torch.device
    tiny: bool
    official: Any = None

    def choose(self, full: Any, tiny: Any) -> Any:
        """A size for what is measured, or for trying the code."""
        return tiny if self.tiny else full


@dataclass(frozen=True)
class Part:
    """A part of the measurement. share: of the time; cases: made when its turn comes."""

    share: float
    cases: Callable[[Setting], Iterable[Case]]


@dataclass(frozen=True)
class Stopwatch:
    """Times calls until a point in time. wait: returns once the device has done all it was given."""

    until: float
    clock: Callable[[], float]
    wait: Callable[[], None]

    def once(self, call: Callable[[], Any]) -> float:
        """Seconds of one call, the device's work included."""
        self.wait()
        start = self.clock()
        call()
        self.wait()
        return self.clock() - start

    def repeat(self, call: Callable[[], Any], warm_up: int = 1) -> list[float]:
        """Seconds of each of several calls, after some that are not counted; at least one."""
        for _ in range(warm_up):
            call()
        seconds = [self.once(call)]
        while len(seconds) < MOST_REPEATS and self.clock() + seconds[-1] < self.until:
            seconds.append(self.once(call))
        return seconds

    @property
    def left(self) -> float:
        """Seconds that the case still has."""
        return max(0.0, self.until - self.clock())


def summary(name: str, values: Sequence[float], unit: str) -> Quantity:
    """The median of repeated measurements, with the distance of their quartiles."""
    low, middle, high = quartiles(list(values))
    return Quantity(name, middle, unit, len(values), high - low)


def duration(seconds: Sequence[float], name: str = "time") -> Quantity:
    """Seconds of a call."""
    return summary(name, seconds, "s")


def rate(amount: float, seconds: Sequence[float], name: str, unit: str) -> Quantity:
    """How much a call does in a second, where it does `amount`."""
    return summary(name, [amount / max(one, 1e-12) for one in seconds], unit)


def measure_all(
    parts: Mapping[str, Part],
    setting: Setting,
    seconds: float,
    report: Callable[[list[Row]], None],
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """All rows of the parts, in order. report is handed all rows so far after each case.

    Every part has its share of the time that is left when it begins, every case an equal part of that of the cases that
    are left. A case that has begun ends; one whose part has no time left is skipped.
    """
    rows: list[Row] = []
    end = clock() + seconds
    shares = [part.share for part in parts.values()]
    for number, (name, part) in enumerate(parts.items()):
        part_end = clock() + max(0.0, end - clock()) * part.share / sum(shares[number:])
        cases = prepared(name, part, setting, rows)
        for position, case in enumerate(cases):
            now = clock()
            if now >= part_end:
                rows += [skipped(name, one, seconds) for one in cases[position:]]
                break
            until = now + (part_end - now) / (len(cases) - position)
            rows += measured(name, case, setting, Stopwatch(until, clock, waiter(setting.device)))
            report(rows)
        report(rows)
    return rows


def prepared(name: str, part: Part, setting: Setting, rows: list[Row]) -> list[Case]:
    """The cases of a part; where they can't be made, none, and a row that says why."""
    try:
        # Where sizes are tiny, cases that differ in size alone are one.
        return list({case.name: case for case in part.cases(setting)}.values())
    except Exception as error:  # one part that can't be had here must not cost the others
        rows.append(Row(name, "", "", None, "", 0, 0.0, FAILED, reason_of(error)))
        return []


def skipped(part: str, case: Case, seconds: float) -> Row:
    """The row of a case that there was no time for."""
    reason = f"no time left for this part of {seconds:g} s; give more --seconds, or this part --only"
    return Row(part, case.name, "", None, "", 0, 0.0, SKIPPED, reason)


def measured(part: str, case: Case, setting: Setting, stopwatch: Stopwatch) -> list[Row]:
    """The rows of one case: what it found, or why it failed."""
    release(setting.device)
    reason = ""
    found: Sequence[Quantity] = ()
    try:
        found = case.measure(stopwatch)
    except Exception as error:  # out of memory, no kernel, no compiler: what can't be done is a result
        reason = reason_of(error)
    peak = peak_bytes(setting.device)
    release(setting.device)
    if reason:
        return [Row(part, case.name, "", None, "", 0, 0.0, FAILED, reason, peak)]
    return [Row(part, case.name, q.name, finite(q.value), q.unit, q.repeats, q.spread, peak_bytes=peak) for q in found]


def finite(value: float) -> float | None:
    """The value, None where it is no number: JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:LONGEST_REASON].rstrip(": ")


def release(device: torch.device) -> None:
    """Let go of what the last case has left, and begin to watch the accelerator's memory anew."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: torch.device) -> int | None:
    """The largest use of the accelerator's memory since `release`; None on a CPU."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None
