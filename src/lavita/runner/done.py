"""Whether a results folder already holds a cell."""

from __future__ import annotations

from pathlib import Path

from lavita.bench.attempts import attempts
from lavita.bench.ledger import read_record
from lavita.bench.plan import config_hash
from lavita.bench.suite import CellConfig
from lavita.registry import ROOT
from lavita.runner.source import EMBEDDED


def results_folder(cell: CellConfig, out: Path | None) -> Path | None:
    """Where a run of the cell puts its results: out, or <suite>-<tier>-<data name>; None where data has no name yet."""
    if out is not None:
        return out
    if cell.data.root is None and cell.tier != "demo":
        return None
    name = EMBEDDED if cell.data.root is None else Path(cell.data.root).expanduser().resolve().name
    return ROOT / "results" / f"{cell.suite}-{cell.tier}-{name}"


def is_done(cell: CellConfig, folder: Path | None) -> bool:
    """Whether some attempt at the cell ended well with the same configuration hash.

    A run also compares code, data and weights, which a dry run does not read. Raises ValueError for a broken record.
    """
    if folder is None:
        return False
    records = [read_record(path) for path in attempts(folder / "cells", cell.cell)]
    mark = config_hash(cell)
    return any(one and one["status"] == "ok" and one["row"].get("config_hash") == mark for one in records)
