"""Distance against what training cost, in FLOPs and in seconds: the points of the charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavita.bench.chart import Point, scatter
from lavita.bench.pairs import label_of
from lavita.bench.table import blocks


@dataclass(frozen=True)
class Cost:
    """A kind of cost: the axis's title and what a trained row spent, None where that is not known."""

    title: str
    of: Callable[[Mapping[str, Any]], float | None]


FLOPS = Cost(
    "training, TFLOPs (codec included)",
    lambda row: float(row["train_flops"]) * 1e-12 if row["train_flops"] else None,
)


def seconds_cost(records: Sequence[Mapping[str, Any]]) -> Cost:
    """Seconds of all trained stages of a cell, the suite's codec too: they stand in the records, not in the rows."""
    spent = {record["cell"]: training_seconds(record) for record in records}
    return Cost("training, seconds (codec included)", lambda row: spent.get(row["cell"]))


def training_seconds(record: Mapping[str, Any]) -> float | None:
    """Seconds of the stages that a cell is charged for, or None where none are recorded."""
    return sum(stage["seconds"] for stage in record.get("stages", [])) or None


def trained_rows(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows of trained cells' distances, those that may share a table together: only they may share a chart."""
    found = [
        [
            row
            for row in block
            if row["stage"] == "train" and row["metric"].startswith("fvd_") and float(row["value"]) > 0
        ]
        for block in blocks(list(rows))
    ]
    return [block for block in found if block]


def quality_cost(rows: Sequence[Mapping[str, Any]], cost: Cost, title: str, name: str = "chart") -> str | None:
    """The chart of rows of one protocol, None where no cost is known."""
    spent = [(row, cost.of(row)) for row in rows]
    points = [
        Point(label_of(row), value, float(row["value"]), end(row, "ci_low"), end(row, "ci_high"))
        for row, value in spent
        if value
    ]
    if not points:
        return None
    return scatter(points, title, cost.title, f"{rows[0]['metric']} (lower is better)", name)


def end(row: Mapping[str, Any], key: str) -> float | None:
    """An end of a row's interval, where it has one."""
    return None if row[key] in ("", None) else float(row[key])
