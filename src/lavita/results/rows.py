"""Rows of rows.csv: one per score, with all that is needed to judge it; and CSV as this project writes it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from lavita.files import atomic_write_text
from lavita.results.scores import Score


@dataclass(frozen=True)
class Row:
    """A tidy row: one score of a run (method x seed) with all that decided it. Fields are the columns, in their order;
    other programs read them. "" or None: not known, or without a meaning here; an empty cell of the file.

    stage: train (the trained method), untrained (its start), a task that is scored beside it (frames: each by itself),
    or the first stage whose reconstruction is scored.
    lower_is_better None: neither end is better. guidance: a number, or "unknown" of external samples. nfe: network
    evaluations per clip. wall_seconds: of all sessions. peak_bytes: the largest of any session. dirty: whether files
    differed from the commit, "true", "false" or "unknown".
    """

    suite: str = ""
    tier: str = ""
    cell: str = ""
    method: str = ""
    dataset: str = ""
    data_fingerprint: str = ""
    division: str = ""
    conditioning: str = ""
    guidance: float | str | None = None
    seed: int | None = None
    stage: str = ""
    metric: str = ""
    value: float | None = None
    unit: str = ""
    lower_is_better: bool | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    ci_kind: str = ""
    n_real: int | None = None
    n_generated: int | None = None
    protocol: str = ""
    protocol_hash: str = ""
    extractor: str = ""
    extractor_hash: str = ""
    sampler: str = ""
    nfe: int | None = None
    clips_seen: int | None = None
    train_flops: int | None = None
    wall_seconds: float | None = None
    accelerator_seconds: float | None = None
    peak_bytes: int | None = None
    params_trained: int | None = None
    params_total: int | None = None
    external_bytes: int | None = None
    sampling_seconds_per_clip: float | None = None
    status: str = ""
    reason: str = ""
    config_hash: str = ""
    weights_hash: str = ""
    commit: str = ""
    dirty: str = ""
    hardware: str = ""
    versions: str = ""
    started_at: str = ""

    @property
    def label(self) -> str:
        """<method>[-<choice>]."""
        return label_of(self.cell)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ends of the score's interval, None where it has none."""
        return None if self.ci_low is None or self.ci_high is None else (self.ci_low, self.ci_high)


COLUMNS = tuple(field.name for field in fields(Row))


# An untrained network has seen no clip and cost nothing.
UNTRAINED = {
    "clips_seen": 0, "train_flops": 0, "wall_seconds": None, "accelerator_seconds": None, "weights_hash": "",
}  # fmt: skip
SCORE_COLUMNS = tuple(name for name in COLUMNS if name in {field.name for field in fields(Score)})


def score_columns(score: Score) -> dict[str, Any]:
    """Columns that differ between the rows of a run; what the score does not say stays as the run's row has it."""
    known = {key: value for key in SCORE_COLUMNS if (value := getattr(score, key)) is not None}
    columns = known | {"lower_is_better": score.lower_is_better}
    return columns | (UNTRAINED if score.stage == "untrained" else {})


def label_of(name: str) -> str:
    """<method>[-<choice>] of <method>[-<choice>]-s<seed>."""
    return name.rpartition("-s")[0]


def rows_csv(rows: Iterable[Row]) -> str:
    """rows.csv as text: a head of COLUMNS, a line per row."""
    return csv_text([list(COLUMNS), *([text_of(value) for value in astuple(row)] for row in rows)])


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """`rows_csv` as a file, whole."""
    atomic_write_text(path, rows_csv(rows))


def csv_text(lines: Iterable[Sequence[str]]) -> str:
    """Lines of texts as CSV, with LF line ends."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def text_of(value: Any) -> str:
    """A CSV cell: full precision for numbers, true and false in lower case, empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


ORDINARY = (1e-4, 1e12)  # sizes that are written without an exponent


def shown(value: Any, digits: int = 4) -> str:
    """A number as people read it, in tables and sentences alike: so many significant digits, without an exponent where
    its size is ORDINARY. Whole numbers (int) and texts stay as they are; None and NaN are "".
    """
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if math.isnan(value):
        return ""
    if not ORDINARY[0] <= abs(value) < ORDINARY[1]:
        return f"{value:.{digits}g}"  # 0 and infinity, too
    return format(Decimal(f"{value:.{digits - 1}e}"), "f")
