"""Where measured rows go: a CSV file, or standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavita.bench.ledger import csv_text, text_of, write_rows


def write_csv(target: str, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write rows to a file, or to standard output where target is "-", with exactly these columns."""
    if target != "-":
        write_rows(Path(target), rows, columns)
        return
    sys.stdout.write(csv_text([list(columns), *([text_of(row.get(key)) for key in columns] for row in rows)]))
