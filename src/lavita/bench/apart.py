"""Which rows of a table a score tells apart from its best one, by the intervals that their records carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lavita.bench.table import SAME_IN_A_TABLE
from lavita.score.intervals import LEVEL, NOT_APART, Interval, compare_intervals

TEXT = """\
FVD extrapolated to infinitely many clips, with 95 % intervals from random halves of the clips; each row against the
one with the smallest. Rows share their real clips, so intervals of differences are rather too wide than too narrow.
The spread of training seeds is not in them.
"""


def apart_lines(records: Sequence[dict[str, Any]], metric: str = "fvd_") -> list[str]:
    """A line a finished cell: its score and whether it is told apart from the best; [] for fewer than two cells.

    Only cells of one table are compared with each other.
    """
    lines = []
    for mark in dict.fromkeys(table_of(record) for record in records):
        found = {
            record["cell"]: interval_of(score)
            for record in records
            if record["status"] == "ok" and table_of(record) == mark
            for score in record["scores"]
            if score["stage"] == "train" and score["metric"].startswith(metric) and "extrapolated" in score
        }
        if len(found) > 1:
            best = min(found, key=lambda cell: found[cell].extrapolated)
            lines += [line(cell, one, best, found[best]) for cell, one in found.items()]
    return lines


def table_of(record: dict[str, Any]) -> tuple[str, ...]:
    """What all cells of one table share."""
    return tuple(str(record["row"].get(column, "")) for column in SAME_IN_A_TABLE)


def line(cell: str, one: Interval, best: str, other: Interval) -> str:
    """What is said of one cell."""
    said = f"* {cell}: {one.value:.4g}, extrapolated {one.extrapolated:.4g} ({one.low:.4g} to {one.high:.4g})"
    if cell == best:
        return f"{said}: the smallest"
    verdict = compare_intervals(one, other).verdict
    return f"{said}: {verdict} {'from' if verdict == NOT_APART else 'than'} {best}"


def interval_of(score: dict[str, Any]) -> Interval:
    """The interval that a score's columns describe."""
    return Interval(
        value=score["value"],
        extrapolated=score["extrapolated"],
        low=score["extrapolated_low"],
        high=score["extrapolated_high"],
        parabola=score["extrapolated"],
        mean_at={},
        level=LEVEL,
        kind=score["ci_kind"],
        remark=score.get("interval_remark", ""),
    )
