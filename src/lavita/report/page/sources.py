"""What lets a reader check a run: the audit, and where each number came from, down to the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lavita.report.page.text import Block, Cell, Table, prose, table
from lavita.results.audit_line import FAIL, VERDICTS, AuditLine
from lavita.results.rows import Row, text_of
from lavita.results.run_folder import Attempt, RunFolder

OTHERS = "Other attempts"
FILES = {  # what lies beside the page, and what for
    "rows.csv": "every score, one per row, with all that is needed to judge it",
    "table.md": "the tables as Markdown",
    "table.csv": "the tables as CSV",
    "table.tex": "the tables for a paper",
    "quality_cost.svg": "the first chart",
    "pairs.csv": "each row against the first",
    "published.csv": "published numbers beside ours",
    "run.json": "the plan",
}


@dataclass(frozen=True)
class Audit:
    """said: how many checks there were, with which verdicts; failed: None where none did."""

    count: int
    said: str
    failed: Table | None
    checks: Table


@dataclass(frozen=True)
class Origin:
    """Everything that decided a run's numbers. place: address of its folder; facts: what stands beside its record."""

    title: str
    place: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sources:
    """files: name and purpose of what lies beside the page; others: the attempts that do not count."""

    files: tuple[tuple[str, str], ...]
    rows: Table
    origins: tuple[Origin, ...]
    protocols: tuple[Table, ...]
    others: list[Block]


def audit_of(lines: Sequence[AuditLine]) -> Audit:
    """The lines of the audit, and those that failed by themselves."""
    counts = ", ".join(f"{sum(line.verdict == verdict for line in lines)} {verdict}" for verdict in VERDICTS)
    bad = [line for line in lines if line.verdict == FAIL]
    failed = lines_table("What failed.", bad) if bad else None
    return Audit(len(lines), f"{len(lines)} checks, {counts}.", failed, lines_table("All checks.", lines))


def lines_table(caption: str, lines: Sequence[AuditLine]) -> Table:
    """Lines of the audit."""
    made = [(line.check, line.where, Cell(line.verdict, "status"), line.text) for line in lines]
    return table(caption, ("check", "where", "verdict", "what was found"), made, f"Audit: {caption}", "audit")


def sources_of(run: RunFolder, rows: Sequence[Row], notes: Mapping[str, str]) -> Sources:
    """Where each number came from."""
    files = [(name, what) for name, what in FILES.items() if (run.path / name).is_file() or name == "rows.csv"]
    return Sources(
        files=tuple(files),
        rows=ledger(rows),
        origins=tuple(origin(attempt) for attempt in run.attempts),
        protocols=tuple(protocols(run)),
        others=prose(notes.get(OTHERS, ""), OTHERS),
    )


def ledger(rows: Sequence[Row]) -> Table:
    """Every row of rows.csv."""
    shown = [
        (
            row.cell,
            row.stage or "none",
            Cell(row.metric or "none", "name"),
            text_of(row.value) or row.status,
            " to ".join(f"{end:.6g}" for end in row.interval or ()),
            text_of(row.n_real),
            text_of(row.n_generated),
            f"{row.protocol.partition(' (')[0]} {row.protocol_hash}",
            f"{row.extractor} {row.extractor_hash[:12]}",
        )
        for row in rows
    ]
    columns = ("cell", "stage", "metric", "value", "interval", "n real", "n generated", "protocol", "extractor")
    caption = "Every row of rows.csv: values at full precision, protocols and extractors with their hashes."
    return table(caption, columns, shown, "Every number", "ledger")


def origin(attempt: Attempt) -> Origin:
    """Code, configuration, weights, data and machine of a run."""
    record, row = attempt.record, attempt.record.row
    place = f"cells/{quote(attempt.name)}"
    dirty = {"true": " with uncommitted changes", "false": ""}.get(row.dirty, " (changes unknown)")
    facts = (
        ("Features", f"{place}/samples.npz, against shared/{record.shared}/real.npz"),
        ("Code", f"commit {row.commit or 'unknown'}{dirty}; hash of the sources {record.code_hash}"),
        ("Configuration", f"hash {row.config_hash or 'unknown'}; {place}/config.yaml"),
        ("Weights", f"sha256 {row.weights_hash or 'none'}"),
        ("Data", f"{row.dataset}; fingerprint {row.data_fingerprint}"),
        ("Machine", row.hardware),
        ("Versions", row.versions),
        ("Started", row.started_at),
    )
    return Origin(f"{record.cell} ({record.status})", place, facts)


def protocols(run: RunFolder) -> list[Table]:
    """Every field of each protocol."""
    made = []
    for one in run.used_protocols:
        values = sorted(one.record.protocol.to_dict().items())
        fields = [(Cell(name, "name"), words(value) or "none") for name, value in values]
        title = f"Protocol {one.artifacts.protocol_name} ({one.artifacts.protocol_hash}), every field"
        made.append(table("Fields of the protocol.", ("field", "value"), fields, title))
    return made


def words(value: Any) -> str:
    """A field of a protocol as text; names are separated by commas."""
    return ", ".join(value) if isinstance(value, tuple) else text_of(value)
