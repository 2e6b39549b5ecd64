"""Every generated table of a results folder, as texts by file name, from its records and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lavita.bench import three_numbers
from lavita.bench.best import told_apart
from lavita.bench.ledger import rows_csv, rows_of
from lavita.bench.notes import notes_of
from lavita.bench.pairs import Pair, pairs_of_rows
from lavita.bench.pairs_note import HEADING, pairs_csv, pairs_markdown
from lavita.bench.quality_cost import FLOPS, quality_cost, trained_rows
from lavita.bench.run_folder import RunFolder
from lavita.bench.three_numbers import ThreeNumbers, numbers_of_plan
from lavita.bench.write_table import tables_of

TABLES = ("rows.csv", "table.csv", "table.md", "table.tex", "quality_cost.svg", "pairs.csv", "published.csv")


@dataclass(frozen=True)
class Tables:
    """texts: by file name; blocks: what the rows of each block share, and its wide table; pairs: rows compared; best:
    (cell, metric) of the scores that are told apart from every other row's; numbers: published ones beside ours; notes:
    what stands below the tables, as Markdown by heading.
    """

    texts: dict[str, str]
    blocks: list[tuple[str, pd.DataFrame]]
    pairs: list[Pair]
    best: set[tuple[str, str]]
    numbers: list[ThreeNumbers]
    notes: dict[str, str]


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
    best = told_apart(rows, scores)
    texts, blocks = tables_of(rows, plan["order"], notes, run.digest, best)
    texts["rows.csv"] = rows_csv(rows)
    texts["published.csv"] = rows_csv(three_numbers.csv_rows(numbers), three_numbers.COLUMNS)
    for comparable in trained_rows(rows)[:1]:
        drawn = quality_cost(comparable, FLOPS, plan["title"])
        texts |= {"quality_cost.svg": drawn} if drawn else {}
    if pairs:
        texts["pairs.csv"] = pairs_csv(pairs)
    return Tables(texts, blocks, pairs, best, numbers, notes)
