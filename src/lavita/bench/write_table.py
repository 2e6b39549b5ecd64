"""The generated tables as texts: table.csv, table.md, table.tex. Rows that can't be compared share no block."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from lavita.bench.cells import for_readers, plain
from lavita.bench.latex import latex_document
from lavita.bench.ledger import csv_text
from lavita.bench.legend import LEGEND
from lavita.bench.table import blocks, facts_of, wide


def tables_of(
    rows: list[dict[str, Any]],
    order: list[str],
    notes: dict[str, str],
    digest: str,
    best: Collection[tuple[str, str]] = (),
) -> tuple[dict[str, str], list[tuple[str, pd.DataFrame]]]:
    """Texts by file name, and (what its rows share, wide table of numbers) of each block.

    order: the rows' names as they shall stand. notes: heading -> Markdown text. digest: of the run, stands in every
    table. best: (cell, metric) of scores that are told apart from every other row's.
    """
    cut = blocks(rows)
    frames = [wide(block, order) for block in cut]
    tables = [(facts_of(block[0]), frame) for frame, block in zip(frames, cut, strict=True)]
    first = rows[0]
    title = f"{first['suite']}, tier {first['tier']}, {first['dataset']}"
    texts = {
        "table.csv": wide_csv(frames, cut, digest),
        "table.md": table_md(title, tables, notes, digest, best),
        "table.tex": latex_document(title, tables, digest, best),
    }
    return texts, tables


def table_md(
    title: str,
    tables: list[tuple[str, pd.DataFrame]],
    notes: dict[str, str],
    digest: str,
    best: Collection[tuple[str, str]],
) -> str:
    """The page that people read."""
    lines = [f"# {title}", ""]
    for facts, frame in tables:
        lines += [facts, "", markdown(for_readers(frame, best, lambda text: f"**{text}**"))]
    lines += [f"Digest of the run: `{digest}`", "", "## Legend", "", LEGEND]
    for heading, text in notes.items():
        lines += [f"## {heading}", "", text.rstrip(), ""]
    return "\n".join(lines).rstrip() + "\n"


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table of texts; `|` in a cell is escaped."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    for _, row in frame.iterrows():
        lines.append("| " + " | ".join(str(value).replace("|", "\\|") for value in row) + " |")
    return "\n".join(lines) + "\n"


def wide_csv(frames: list[pd.DataFrame], cut: list[list[dict[str, Any]]], digest: str) -> str:
    """All blocks in one CSV: a later block's scores stand in columns of their own, named with what sets it apart."""
    texts = [plain(frame) for frame in frames]
    later = [renamed(text, block[0]) for text, block in zip(texts[1:], cut[1:], strict=True)]
    whole = pd.concat([texts[0], *later]).assign(digest=digest)
    whole = whole[[*whole.columns.drop("remark"), "remark"]].fillna("another block")
    return csv_text([list(whole.columns), *whole.values.tolist()])


def renamed(frame: pd.DataFrame, first: dict[str, Any]) -> pd.DataFrame:
    """A later block's table, its score columns named with what sets the block apart."""
    apart = f"[{first['division']}; {first['conditioning']}; guidance {first['guidance']}; {first['protocol']}]"
    scores = [name for name in frame.columns if "↓" in name or "↑" in name or "(1 = new)" in name]
    return frame.rename(columns={name: f"{name} {apart}" for name in scores})
