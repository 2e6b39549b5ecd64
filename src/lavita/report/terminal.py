"""A block's table as a run prints it on a terminal: what the metrics are, short columns, remarks below."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import pandas as pd

from lavita.metrics.table import MetricKey, is_metric
from lavita.report.tables import column_title, for_readers, keys_of
from lavita.report.write import markdown_cell

WIDTH = 100  # columns that every line fits
NAMES = ("method", "seed")  # what names a row
COSTS = ("clips", "wall (s)")


def terminal_text(frame: pd.DataFrame, width: int = WIDTH) -> str:
    """Scores and costs of a wide table as Markdown whose columns stand below each other; one that is wider than `width`
    is cut into several below each other, each with the rows' names. A name alone may be wider.
    """
    scores = [name for name in frame.columns if is_metric(name, "fvd") or is_metric(name, "is")]
    texts = for_readers(frame, (), str)
    kept = texts[[*NAMES, *(name for name in texts.columns if name in scores), *COSTS]]
    parts = [*(legend_line(key, width) for key in keys_of(kept.columns).values()), ""]
    parts += ["\n\n".join(aligned(part) for part in cut(kept.rename(columns=column_title), width))]
    said = remarks(texts, width)
    return "\n".join([*parts, *(["", *said] if said else [])]) + "\n"


def legend_line(key: MetricKey, width: int) -> str:
    """What a metric is and which end is better."""
    return textwrap.fill(f"{key.words}: {key.row.legend}", width, subsequent_indent="  ")


def cut(frame: pd.DataFrame, width: int) -> Iterator[pd.DataFrame]:
    """The table in parts that fit, each with the columns that name a row."""
    names = list(range(len(NAMES)))
    wide = [max(map(len, column)) + 3 for column in columns_of(frame)]  # with a bar and two spaces
    taken: list[int] = []
    for at in range(len(names), len(wide)):
        if taken and 1 + sum(wide[one] for one in (*names, *taken, at)) > width:
            yield frame.iloc[:, [*names, *taken]]
            taken = []
        taken.append(at)
    yield frame.iloc[:, [*names, *taken]]


def columns_of(frame: pd.DataFrame) -> list[list[str]]:
    """Head and cells of every column, as Markdown has them."""
    heads = list(frame.columns)
    return [[markdown_cell(one) for one in (head, *frame.iloc[:, at])] for at, head in enumerate(heads)]


def aligned(frame: pd.DataFrame) -> str:
    """A Markdown table whose columns stand below each other: the first at the left, the others at the right."""
    columns = columns_of(frame)
    widths = [max(map(len, column)) for column in columns]
    columns[0] = [text.ljust(widths[0]) for text in columns[0]]
    columns[1:] = [[text.rjust(n) for text in one] for one, n in zip(columns[1:], widths[1:], strict=True)]
    head, *rows = zip(*columns, strict=True)
    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (n - 1)}:" for n in widths[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def noise_text(cells: Sequence[str], width: int = WIDTH) -> str:
    """Of which runs the samples are like noise to the classifier; cells: their names."""
    said = f"not distinguished from noise by the feature network's own classifier: {', '.join(cells)}"
    return textwrap.fill(f"{said} (table.md: by how much)", width, subsequent_indent="  ", break_on_hyphens=False)


def remarks(texts: pd.DataFrame, width: int) -> list[str]:
    """What a reader must know of rows; rows of which the same is to be said share a line."""
    found: dict[str, list[str]] = {}
    for _, line in texts.iterrows():
        if line["remark"]:
            found.setdefault(line["remark"], []).append(f"{line['method']}-s{line['seed']}")
    lines = [f"{', '.join(rows)}: {said}" for said, rows in found.items()]
    return [textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
