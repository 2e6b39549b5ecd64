"""The ledger: one record a cell, written whole or not at all, and the tidy rows that follow from it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lavita.files import atomic_write_text

COLUMNS = (
    "suite,tier,cell,method,dataset,data_fingerprint,division,conditioning,guidance,seed,stage,metric,value,unit,"
    "lower_is_better,ci_low,ci_high,ci_kind,n_real,n_generated,protocol,protocol_hash,extractor,extractor_hash,"
    "sampler,nfe,clips_seen,train_flops,wall_seconds,accelerator_seconds,peak_bytes,params_trained,params_total,"
    "external_bytes,sampling_seconds_per_clip,status,reason,config_hash,weights_hash,commit,dirty,hardware,"
    "versions,started_at"
).split(",")
STATUSES = ("queued", "running", "ok", "failed", "diverged", "over_budget", "interrupted")
UNFINISHED = ("queued", "running", "interrupted")  # what the same command goes on with
RECORD = "record.json"


@dataclass(frozen=True)
class NearestClip:
    """A generated clip, by index, and the training clip that it comes nearest to; ratio: the distance in units of the
    median one of held-out clips.
    """

    clip: int
    training_clip: str
    distance: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number and what is known of it; None for what is not.

    ci_low, ci_high, ci_kind: its interval at the same number of clips. extrapolated, with extrapolated_low and _high:
    in the limit of infinitely many; interval_remark: where that limit is no good fit. n_real, n_generated: clips, where
    they are not the protocol's. copies: generated clips that are training clips. closest: the clips nearest to these.
    """

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    ci_kind: str | None = None
    extrapolated: float | None = None
    extrapolated_low: float | None = None
    extrapolated_high: float | None = None
    interval_remark: str | None = None
    n_real: int | None = None
    n_generated: int | None = None
    copies: int | None = None
    closest: tuple[NearestClip, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Score(Measurement):
    """A measurement as a record holds it. metric: its full name, see `lavita.metrics.table.metric_key`; stage: what was
    scored (train, untrained, generated, real, codec, autoencoder); lower_is_better None: neither is. extractor,
    extractor_hash: the feature network. sampling_seconds_per_clip: of the clips that were scored.
    """

    metric: str
    stage: str
    unit: str
    lower_is_better: bool | None
    extractor: str | None = None
    extractor_hash: str | None = None
    sampling_seconds_per_clip: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As a record holds it: what is not known is left out, but for the direction."""
        entries = asdict(self) | {"closest": self.closest and [asdict(one) for one in self.closest]}
        return {key: value for key, value in entries.items() if value is not None or key == "lower_is_better"}

    @classmethod
    def from_json(cls, entries: Any) -> Score:
        """Undo `to_json`. Raises ValueError, one line, for a score that lacks something, or holds what none has."""
        if not isinstance(entries, Mapping):
            raise ValueError(f"score: got {type(entries).__name__}, wanted a mapping with {', '.join(NEEDED)}")
        name = f"score {entries.get('metric')!r}"
        missing = [key for key in NEEDED if key not in entries]
        unknown = sorted(map(str, set(entries) - set(SCORE_TYPES)))
        if missing or unknown:
            raise ValueError(f"{name}: " + (f"{missing[0]} is missing" if missing else f"unknown key {unknown[0]!r}"))
        for key, value in entries.items():
            if key != "closest" and not is_of(value, SCORE_TYPES[key]):
                wanted = " or ".join(getattr(one, "__name__", str(one)) for one in SCORE_TYPES[key])
                raise ValueError(f"{name}: {key} is {value!r:.60}, wanted {wanted}")
        try:
            closest = tuple(NearestClip(**one) for one in entries["closest"]) if entries.get("closest") else None
        except TypeError:
            wanted = ", ".join(field.name for field in fields(NearestClip))
            raise ValueError(f"{name}: closest is no list of {wanted}") from None
        return cls(**{**entries, "closest": closest})


SCORE_TYPES = {key: get_args(hint) or (hint,) for key, hint in get_type_hints(Score).items()}
NEEDED = ("metric", "stage", "value", "unit", "lower_is_better")


def is_of(value: Any, types: Sequence[type]) -> bool:
    """Whether a JSON value is of one of the types; a whole number is a float too, a truth value is no number."""
    allowed = (*types, int) if float in types else types
    return isinstance(value, tuple(allowed)) and (not isinstance(value, bool) or bool in types)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Store a cell's record. Raises ValueError for a status that fairness.md does not know."""
    if record["status"] not in STATUSES:
        raise ValueError(f"record of {record['cell']}: status {record['status']!r}, allowed {', '.join(STATUSES)}")
    atomic_write_text(folder / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """A cell's record, or None where there is none. Raises ValueError naming a file that is not one."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a record ({error}); remove the cell's folder to run it again") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: not a record but a {type(record).__name__}")
    return record


def rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Tidy rows of a record, one a score; a cell that is not ok has exactly one, with empty metric and value."""
    shared = {column: record["row"].get(column, "") for column in COLUMNS}
    shared |= {"status": record["status"], "reason": record.get("reason", "")}
    if record["status"] != "ok":
        return [shared | {"stage": "", "metric": "", "value": ""}]
    return [shared | stage_columns(record, score) for score in record["scores"]]


def stage_columns(record: dict[str, Any], score: dict[str, Any]) -> dict[str, Any]:
    """Columns that differ between the rows of a cell; an untrained network has seen no clip and cost nothing."""
    columns = {key: score[key] for key in COLUMNS if key in score}
    if score["stage"] == "untrained":
        columns |= {
            "clips_seen": 0,
            "train_flops": 0,
            "wall_seconds": "",
            "accelerator_seconds": "",
            "weights_hash": "",
        }
    return columns


def text_of(value: Any) -> str:
    """A CSV cell: full precision for numbers, true and false in lower case, empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def shown(value: Any) -> str:
    """A number with four significant digits, for sentences."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def rows_csv(rows: Iterable[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """Rows as CSV with exactly these columns in this order. Raises ValueError for others."""
    lines = []
    for row in rows:
        unknown = set(row) - set(columns)
        if unknown:
            raise ValueError(f"rows: unknown columns {sorted(unknown)}")
        lines.append([text_of(row.get(column)) for column in columns])
    return csv_text([list(columns), *lines])


def write_rows(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """`rows_csv` as a file."""
    atomic_write_text(path, rows_csv(rows, columns))


def csv_text(lines: list[list[str]]) -> str:
    import io

    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def label_of(row: Mapping[str, Any]) -> str:
    """<method>[-<choice>] of a tidy row."""
    return str(row["cell"]).rpartition("-s")[0]
