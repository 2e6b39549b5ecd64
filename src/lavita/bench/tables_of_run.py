"""Every generated table of a results folder, as texts by file name, from its records and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lavita.bench import three_numbers
from lavita.bench.best import told_apart
from lavita.bench.chart import Point, scatter
from lavita.bench.ledger import rows_csv, rows_of
from lavita.bench.notes import notes_of
from lavita.bench.pairs import Pair, label_of, pairs_of_rows
from lavita.bench.pairs_note import HEADING, pairs_csv, pairs_markdown
from lavita.bench.run_folder import RunFolder
from lavita.bench.three_numbers import numbers_of_plan
from lavita.bench.write_table import tables_of

TABLES = ("rows.csv", "table.csv", "table.md", "table.tex", "quality_cost.svg", "pairs.csv", "published.csv")


@dataclass(frozen=True)
class Tables:
    """texts: by file name; blocks: what the rows of each block share, and its wide table; pairs: rows compared."""

    texts: dict[str, str]
    blocks: list[tuple[str, pd.DataFrame]]
    pairs: list[Pair]


def tables_of_run(run: RunFolder) -> Tables:
    """The tables that the records of a results folder say. The same records give the same bytes."""
    plan = run.plan
    rows = [row for record in run.records for row in rows_of(record)]
    pairs = pairs_of_rows(rows, plan["order"]) if plan["compares_rows"] else []
    notes = notes_of(run) | ({HEADING: pairs_markdown(pairs)} if pairs else {})
    numbers = numbers_of_plan(rows, plan["published"])
    notes |= {three_numbers.HEADING: three_numbers.three_numbers_markdown(rows, numbers)}
    scores = {
        (record["cell"], score["metric"]): score
        for record in run.records
        for score in record["scores"]
        if record["status"] == "ok" and score["stage"] == "train"
    }
    texts, blocks = tables_of(rows, plan["order"], notes, run.digest, told_apart(rows, scores))
    texts["rows.csv"] = rows_csv(rows)
    texts["published.csv"] = rows_csv(three_numbers.csv_rows(numbers), three_numbers.COLUMNS)
    drawn = chart(rows, plan["title"])
    if drawn:
        texts["quality_cost.svg"] = drawn
    if pairs:
        texts["pairs.csv"] = pairs_csv(pairs)
    return Tables(texts, blocks, pairs)


def chart(rows: Sequence[dict[str, Any]], title: str) -> str | None:
    """Distance against training FLOPs for the trained cells, where there are any."""
    trained = [
        row for row in rows if row["stage"] == "train" and row["metric"].startswith("fvd_") and row["train_flops"]
    ]
    points = [
        Point(label_of(row), float(row["train_flops"]) * 1e-12, float(row["value"]))
        for row in trained
        if row["protocol_hash"] == trained[0]["protocol_hash"] and float(row["value"]) > 0
    ]
    if points:
        metric = trained[0]["metric"]
        return scatter(points, title, "training, TFLOPs (codec included)", f"{metric} (lower is better)")
    return None
