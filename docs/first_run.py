"""Puts a finished demo into README.md: its table, its picture, and its lines of docs/numbers.csv.

python docs/first_run.py results/ucf101-demo-embedded [--variation variation.csv]

The picture is the run's overview.webp. The variation is what `lavita variation --suite ucf101 --full --csv FILE` wrote:
without it the numbers stand as not measured. README's sentence above the table is written by hand; the commit and the
processor that it has to name are printed.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lavita.results.rows import shown

ROOT = Path(__file__).resolve().parents[1]
PICTURE, RECORDED = ROOT / "docs" / "first_run.webp", ROOT / "docs" / "numbers.csv"
DOCUMENT, DATA = "README.md", "synthetic ucf101"
SCORES = (("fvd", "FVD (in-domain, 64 clips of 8 frames) ↓"), ("is", "IS (in-domain, 64 clips of 8 frames) ↑"))
NOTES = {"dit": "dit (frame by frame)"}
Cell = tuple[str, str, str]  # column, value, allowed variation


def cells_of(rows: pd.DataFrame, allowed: dict[tuple[str, str], str]) -> list[Cell]:
    """The columns of one method's row, but for its name."""
    cells: list[Cell] = []
    for metric, title in SCORES:
        for stage, column in (("train", title), ("untrained", "untrained")):
            (row,) = rows[(rows.stage == stage) & rows.metric.str.match(rf"{metric}_")].itertuples()
            cells.append((column, shown(row.value), allowed.get((stage, row.metric), "not measured")))
    trained = rows[rows.stage == "train"].iloc[0]
    cells.append(("clips", str(int(trained.clips_seen)), "exact"))
    cells.append(("train TFLOPs", f"{trained.train_flops / 1e12:.2f}", "exact"))
    return cells


def allowed_by(variation: Path | None) -> dict[tuple[str, str], str]:
    """Allowed variation by stage and metric, shares of the file in percent; empty where it was not measured."""
    if variation is None:
        return {}
    table = pd.read_csv(variation)
    return {(row.stage, row.metric): f"{row.allowed:.0%}".replace("%", " %") for row in table.itertuples()}


def markdown(table: dict[str, list[Cell]]) -> str:
    """The table of README. A column's head says its variation."""
    first = next(iter(table.values()))
    head = [title if allowed in ("exact", "not measured") else f"{title} (± {allowed})" for title, _, allowed in first]
    lines = [["method", *head], ["---"] * (len(head) + 1)]
    lines += [[NOTES.get(method, method), *(value for _, value, _ in cells)] for method, cells in table.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def record(table: dict[str, list[Cell]], commit: str) -> None:
    """Put README's lines of docs/numbers.csv in place of those that are there."""
    with RECORDED.open(encoding="utf-8", newline="") as file:
        head, *others = [line for line in csv.reader(file) if line[0] != DOCUMENT]
    own = [
        [DOCUMENT, DATA, NOTES.get(method, method), *cell, commit] for method, cells in table.items() for cell in cells
    ]
    with RECORDED.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *own, *others])


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--variation", type=Path)
    arguments = parser.parse_args(argv)
    rows = pd.read_csv(arguments.results / "rows.csv", dtype={"commit": str})
    if set(rows.status) != {"ok"} or rows.dirty.any():
        parser.error("wanted a folder of rows that are all ok, made by a clean commit")
    allowed = allowed_by(arguments.variation)
    table = {method: cells_of(own, allowed) for method, own in rows.groupby("method", sort=False)}
    commit = rows.commit.iloc[0][:7]
    readme = ROOT / DOCUMENT
    text, count = re.subn(r"(?:^\| method \|.*\n)(?:^\|.*\n)+", markdown(table), readme.read_text("utf-8"), flags=re.M)
    if count != 1:
        parser.error(f"{DOCUMENT}: found {count} tables of methods, wanted one")
    readme.write_text(text, encoding="utf-8")
    record(table, commit)
    shutil.copyfile(arguments.results / "overview.webp", PICTURE)
    print(f"{DOCUMENT}: made at commit {commit} on {rows.hardware.iloc[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
