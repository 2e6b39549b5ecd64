"""How a table writes its cells: fixed decimals by column, intervals, and a reason wherever there is no number."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pandas as pd

from lavita.bench.table import COST, HIGH, LOW, UNTRAINED

DECIMALS = {
    "fvd": 1, "fvd-train": 1, "fvd-heldout": 1, "rfvd": 1, "kvd": 3, "is": 2, "fid": 1, "memorisation": 2, "psnr": 2,
    "ssim": 3, "lpips": 3, "clips": 0, "train TFLOPs": 2, "trained params (M)": 2, "params (M)": 2, "wall (s)": 1,
    "sampling (s/clip)": 3, "NFE": 0, "peak (GiB)": 2, "seed": 0,
}  # fmt: skip
USUAL_DECIMALS = 2
AUDITED_NOT = "training not audited"


def decimals_of(column: str) -> int:
    """Digits behind the point of every number in a column."""
    return DECIMALS.get(column, DECIMALS.get(column.split("_")[0], USUAL_DECIMALS))


def number(value: Any, column: str) -> str:
    """A number with the decimals of its column, or the text that it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.{decimals_of(column)}f}"


def is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and pd.isna(value))


def why_empty(line: pd.Series, column: str) -> str:
    """The reason for a cell without a number."""
    if line["status"] != "ok":
        return str(line["status"])
    if AUDITED_NOT in str(line["remark"]):
        return "not audited"
    return "no interval" if column.endswith((LOW, HIGH)) else "not measured"


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell as text for a CSV: numbers with fixed decimals, reasons elsewhere; a remark may be empty."""
    return filled(frame, lambda line, column: number(line[column], column))


def filled(frame: pd.DataFrame, write: Callable[[pd.Series, str], str]) -> pd.DataFrame:
    """A table of texts: write(line, column) where there is a value, a reason where there is none."""
    texts = [
        {
            column: write(line, column)
            if not is_empty(line[column])
            else ("" if column == "remark" else why_empty(line, column))
            for column in frame.columns
        }
        for _, line in frame.iterrows()
    ]
    return pd.DataFrame(texts, columns=frame.columns)


def for_readers(
    frame: pd.DataFrame, best: Collection[tuple[str, str]], bold: Callable[[str], str], skip: Collection[str] = ()
) -> pd.DataFrame:
    """The same for a page: intervals in brackets behind their scores, and bold(text) for (cell, metric) in best."""

    def write(line: pd.Series, column: str) -> str:
        text = number(line[column], column)
        metric = column.split(" ")[0]
        if column in COST or column.endswith(UNTRAINED) or column + LOW not in frame.columns:
            return text
        if (f"{line['method']}-s{line['seed']}", metric) in best:
            text = bold(text)
        low, high = line[column + LOW], line[column + HIGH]
        return text if is_empty(low) else f"{text} ({number(low, column)} to {number(high, column)})"

    kept = [name for name in frame.columns if not name.endswith((LOW, HIGH)) and name not in skip]
    return filled(frame, write)[kept]
