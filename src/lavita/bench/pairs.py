"""Whether a run can tell two of its rows apart: the ratio of their scores against the spread from seed to seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavita.score.student import student_quantile

COLUMNS = ("choice", "against", "metric", "seeds", "ratio", "ci_low", "ci_high", "verdict")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Pair:
    """A row against the first: ratio of geometric means over seeds, its 95 % interval, and what that says."""

    choice: str
    against: str
    metric: str
    seeds: int
    ratio: float | None
    ci_low: float | None
    ci_high: float | None
    verdict: str


def compared(scores: Mapping[str, Mapping[int, float]], metric: str, lower_is_better: bool = True) -> list[Pair]:
    """Each row of scores (label -> seed -> value above 0, all by one protocol) against the first.

    A seed fixes data order, noise and starting weights of every row alike, so logarithms are compared seed by seed:
    value = row + seed + rest. The rest's variance is pooled over all rows that have every seed, and the interval is
    Student's t with (rows - 1)(seeds - 1) degrees of freedom; it is of one pair, not corrected for their number.
    Source: two-way layout without replication, Scheffe, The Analysis of Variance (1959), chapter 4.
    """
    labels = list(scores)
    seeds = sorted(set().union(*(scores[label] for label in labels)))
    full = [label for label in labels if set(scores[label]) == set(seeds)]
    base, others = labels[0], labels[1:]
    if len(seeds) < 2 or len(full) < 2:
        why = "one seed: the spread from seed to seed is unknown; give --seeds 0,1 or more"
        return [one_seed(scores, label, base, metric, why) for label in others]
    logs = {label: [math.log(scores[label][seed]) for seed in seeds] for label in full}
    freedom = (len(full) - 1) * (len(seeds) - 1)
    spread = math.sqrt(residual_squares(list(logs.values())) / freedom)
    half = student_quantile((1 + CONFIDENCE) / 2, freedom) * spread * math.sqrt(2 / len(seeds))
    pairs = []
    for label in others:
        if label not in full or base not in full:
            pairs.append(one_seed(scores, label, base, metric, "not every seed ended well in both"))
            continue
        difference = mean(logs[label]) - mean(logs[base])
        low, high = math.exp(difference - half), math.exp(difference + half)
        pairs.append(
            Pair(label, base, metric, len(seeds), math.exp(difference), low, high, verdict(low, high, lower_is_better))
        )
    return pairs


def one_seed(scores: Mapping[str, Mapping[int, float]], label: str, base: str, metric: str, why: str) -> Pair:
    """A pair without an interval: the ratio over the seeds that both have, if any."""
    both = sorted(set(scores[label]) & set(scores[base]))
    logs = [math.log(scores[label][seed] / scores[base][seed]) for seed in both]
    return Pair(
        label, base, metric, len(both), math.exp(mean(logs)) if logs else None, None, None, f"not told apart: {why}"
    )


def verdict(low: float, high: float, lower_is_better: bool) -> str:
    """What an interval of the ratio says."""
    if low <= 1 <= high:
        return "not told apart at this size"
    return "told apart: better" if (high < 1) == lower_is_better else "told apart: worse"


def residual_squares(rows: Sequence[Sequence[float]]) -> float:
    """Sum of squares of what row means and column means leave of a table of numbers."""
    columns = list(zip(*rows, strict=True))
    grand = mean([mean(row) for row in rows])
    return sum(
        (value - mean(row) - mean(column) + grand) ** 2
        for row in rows
        for value, column in zip(row, columns, strict=True)
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def pairs_of_rows(rows: Sequence[dict[str, Any]], order: Sequence[str]) -> list[Pair]:
    """Pairs of the trained rows' distances, protocol by protocol; what no protocol shares with the first row says so.

    rows are tidy rows of the ledger; order holds the labels of the suite's rows, the first being the base.
    """
    trained = [row for row in rows if row["stage"] == "train" and row["metric"].startswith("fvd_")]
    trained = [row for row in trained if float(row["value"]) > 0]  # ratios and logarithms need it
    base = order[0]
    base_protocols = {row["protocol_hash"] for row in trained if label_of(row) == base}
    pairs = []
    for metric in dict.fromkeys(row["metric"] for row in trained):
        scores: dict[str, dict[int, float]] = {}
        elsewhere: dict[str, str] = {}
        for row in sorted(
            trained, key=lambda row: order.index(label_of(row)) if label_of(row) in order else len(order)
        ):
            if row["metric"] == metric and row["protocol_hash"] in base_protocols:
                scores.setdefault(label_of(row), {})[int(row["seed"])] = float(row["value"])
            elif row["metric"] == metric:
                elsewhere[label_of(row)] = row["protocol"]
        if base in scores and len(scores) > 1:
            pairs += compared(scores, metric)
        for label, protocol in elsewhere.items():
            reason = f"not comparable: another protocol, {protocol}"
            pairs.append(Pair(label, base, metric, 0, None, None, None, reason))
    return pairs


def label_of(row: Mapping[str, Any]) -> str:
    """<method>[-<choice>] of a tidy row."""
    return str(row["cell"]).rpartition("-s")[0]
