"""Which scores of a table are told apart from every other row's: what may be bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lavita.bench.apart import interval_of
from lavita.bench.pairs import compared
from lavita.bench.table import blocks
from lavita.score.intervals import BETTER, compare_intervals

Key = tuple[str, str]  # cell, metric


def told_apart(rows: Sequence[dict[str, Any]], scores: Mapping[Key, Mapping[str, Any]]) -> set[Key]:
    """(cell, metric) of each block's best row, where the 95 % interval of its difference to every other row excludes 0.

    rows: tidy rows. scores: the records' entries of trained rows, by cell and metric. Where all rows have the same two
    or more training seeds, these decide; else the intervals that random halves of the clips gave.
    """
    found: set[Key] = set()
    for block in blocks(list(rows)):
        trained = [row for row in block if row["stage"] == "train" and row["lower_is_better"] in (True, False)]
        for metric in dict.fromkeys(row["metric"] for row in trained):
            found |= best_of([row for row in trained if row["metric"] == metric], scores)
    return found


def best_of(rows: list[dict[str, Any]], scores: Mapping[Key, Mapping[str, Any]]) -> set[Key]:
    """The keys of the best row (of all its seeds), if it is told apart from the others; rows are of one metric."""
    metric, lower = rows[0]["metric"], bool(rows[0]["lower_is_better"])
    by_label: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_label.setdefault(label_of_cell(row["cell"]), {})[int(row["seed"])] = row
    if len(by_label) < 2:
        return set()
    means = {
        label: sum(float(row["value"]) for row in seeds.values()) / len(seeds) for label, seeds in by_label.items()
    }
    best = (min if lower else max)(means, key=lambda label: means[label])
    if (
        apart_by_seeds(by_label, best, metric, lower)
        if same_seeds(by_label)
        else apart_by_clips(by_label, best, scores)
    ):
        return {(row["cell"], metric) for row in by_label[best].values()}
    return set()


def label_of_cell(cell: str) -> str:
    return cell.rpartition("-s")[0]


def same_seeds(by_label: Mapping[str, Mapping[int, Any]]) -> bool:
    """Whether every row has the same two or more training seeds, and values that have logarithms."""
    sets = {frozenset(seeds) for seeds in by_label.values()}
    positive = all(float(row["value"]) > 0 for seeds in by_label.values() for row in seeds.values())
    return len(sets) == 1 and len(next(iter(sets))) > 1 and positive


def apart_by_seeds(by_label: Mapping[str, Mapping[int, Any]], best: str, metric: str, lower: bool) -> bool:
    """Whether the best row is better than each other one by the spread from seed to seed."""
    labels = [best, *(label for label in by_label if label != best)]
    values = {label: {seed: float(row["value"]) for seed, row in by_label[label].items()} for label in labels}
    return all(pair.verdict == "told apart: worse" for pair in compared(values, metric, lower))


def apart_by_clips(
    by_label: Mapping[str, Mapping[int, Any]], best: str, scores: Mapping[Key, Mapping[str, Any]]
) -> bool:
    """Whether each seed's row of the best is better than each row of the others by the clips' own intervals."""
    groups = {
        label: [scores.get((row["cell"], row["metric"]), {}) for row in seeds.values()]
        for label, seeds in by_label.items()
    }
    if not all("extrapolated" in score for group in groups.values() for score in group):
        return False
    lower = all(score["lower_is_better"] for score in groups[best])
    return all(
        compare_intervals(interval_of(one), interval_of(other), lower).verdict == BETTER
        for one in groups[best]
        for label, group in groups.items()
        if label != best
        for other in group
    )
