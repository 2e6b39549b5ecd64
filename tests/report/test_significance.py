"""Which rows differ significantly, from records made by hand."""

from __future__ import annotations

from dataclasses import replace

from lavita.report.significance import significance_lines
from lavita.results.records import Record
from lavita.results.rows import Row
from lavita.results.scores import Score


def record(cell: str, value: float, half: float, mark: str = "p", status: str = "ok", division: str = "") -> Record:
    score = Score(
        stage="train", metric="fvd_embedded_n64_f8", value=value + 5, unit="u", lower_is_better=True,
        extrapolated=value, extrapolated_low=value - half, extrapolated_high=value + half, ci_kind="95 %",
    )  # fmt: skip
    start = replace(score, stage="untrained", value=900.0)
    row = Row(protocol_hash=mark, division=division)
    return Record(cell=cell, label=cell, status=status, row=row, scores=(start, score))


def test_close_rows_are_not_told_apart_and_far_ones_are():
    """Differences 6 and 20 of intervals +-5 and +-5: the root of 50 is 7.07."""
    lines = significance_lines([record("a", 46, 5), record("b", 40, 5), record("c", 60, 5)])
    assert lines == [
        "* a: 51, extrapolated 46 (41 to 51): not significantly different from b",
        "* b: 45, extrapolated 40 (35 to 45): the smallest",
        "* c: 65, extrapolated 60 (55 to 65): worse than b",
    ]


def test_other_protocols_and_unfinished_runs_are_left_out():
    assert (
        significance_lines([record("a", 46, 5), record("b", 40, 5, mark="q"), record("c", 60, 5, status="failed")])
        == []
    )
    assert significance_lines([]) == []


def test_rows_of_another_table_are_no_comparison():
    open_row = record("b", 40, 5, division="open")
    assert significance_lines([record("a", 46, 5), open_row]) == []
