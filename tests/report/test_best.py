"""What may be bold: a best score that differs significantly from every other, by seeds or by its own clips."""

from __future__ import annotations

import math
from dataclasses import replace

from lavita.report.significance import significant_best
from lavita.results.rows import Row
from lavita.results.scores import Score

METRIC = "fvd_embedded_n64_f8"


def row(cell: str, value: float, seed: int = 0, **more) -> Row:
    known = {"cell": f"{cell}-s{seed}", "seed": seed, "stage": "train", "metric": METRIC, "value": value}
    return Row(**known | {"lower_is_better": True, "protocol_hash": "p", "division": "closed"} | more)


def score(value: float, half: float, lower: bool = True) -> Score:
    ends = {"extrapolated": value, "extrapolated_low": value - half, "extrapolated_high": value + half}
    return Score(metric=METRIC, stage="train", value=value, unit="u", lower_is_better=lower, ci_kind="95 %", **ends)


def test_by_clips_the_difference_to_every_row_must_exclude_zero():
    """Halves 5 and 5: differences need more than the root of 50, 7.07."""
    rows = [row("a", 40), row("b", 48), row("c", 90)]
    scores = {(r.cell, METRIC): score(r.value, 5) for r in rows}
    assert significant_best(rows, scores) == {("a-s0", METRIC)}
    near = [row("a", 40), row("b", 46), row("c", 90)]
    assert significant_best(near, {(r.cell, METRIC): score(r.value, 5) for r in near}) == set()


def test_without_an_interval_nothing_is_bold():
    rows = [row("a", 1), row("b", 100)]
    bare = {"extrapolated": None, "extrapolated_low": None, "extrapolated_high": None, "ci_kind": None}
    assert significant_best(rows, {(r.cell, METRIC): replace(score(r.value, 0.1), **bare) for r in rows}) == set()


def test_seeds_decide_where_every_row_has_the_same():
    """Ratio e^2 between rows, seeds alike: t of 12.7 at one degree of freedom times a tiny spread; then a large one."""
    close = [row("a", math.exp(s * 0.01), s) for s in (0, 1)] + [row("b", math.exp(2 + s * 0.012), s) for s in (0, 1)]
    assert significant_best(close, {}) == {("a-s0", METRIC), ("a-s1", METRIC)}
    wild = [row("a", math.exp(s * 3), s) for s in (0, 1)] + [row("b", math.exp(2 - s), s) for s in (0, 1)]
    assert significant_best(wild, {}) == set()


def test_rows_of_other_blocks_and_a_single_row_are_no_comparison():
    rows = [row("a", 1), row("b", 100, protocol_hash="q")]
    assert significant_best(rows, {(r.cell, METRIC): score(r.value, 0.1) for r in rows}) == set()


def test_higher_is_better_for_inception_scores():
    rows = [row("a", 1.0, lower_is_better=False), row("b", 5.0, lower_is_better=False)]
    scores = {(r.cell, METRIC): score(r.value, 0.5, lower=False) for r in rows}
    assert significant_best(rows, scores) == {("b-s0", METRIC)}
