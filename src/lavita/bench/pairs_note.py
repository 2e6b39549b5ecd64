"""The comparison of each row with the first in words: a section of table.md, and pairs.csv."""

from __future__ import annotations

from dataclasses import astuple

from lavita.bench.ledger import csv_text, shown, text_of
from lavita.bench.pairs import COLUMNS, Pair

HEADING = "Which rows this size can tell apart"
TEXT = """\
Each row against the first: ratio of the scores (geometric mean over the seeds) with its 95 % interval from the spread
from seed to seed, pooled over all rows. The interval is of one pair: of twenty equal choices about one is told apart by
chance.
"""


def pairs_csv(pairs: list[Pair]) -> str:
    """pairs.csv, a line a pair."""
    lines = [[text_of(value) for value in astuple(pair)] for pair in pairs]
    return csv_text([list(COLUMNS), *lines])


def pairs_markdown(pairs: list[Pair]) -> str:
    """The section of table.md."""
    table = ["| choice | against | metric | seeds | what this run says |", "| --- | --- | --- | --- | --- |"]
    table += [f"| {p.choice} | {p.against} | {p.metric} | {p.seeds} | {sentence(p)} |" for p in pairs]
    return TEXT + "\n" + "\n".join(table)


def sentence(pair: Pair) -> str:
    """A pair's verdict with its numbers."""
    if pair.ratio is None:
        return pair.verdict
    interval = f" ({pair.ci_low:.2f} to {pair.ci_high:.2f})" if pair.ci_low is not None else ""
    return f"{pair.verdict}; ratio {shown(pair.ratio)}{interval}"
