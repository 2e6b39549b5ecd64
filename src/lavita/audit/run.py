"""All checks of a results folder, in the order in which a reader would ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lavita.audit.budget import budget_lines
from lavita.audit.clips import clips_lines, data_lines
from lavita.audit.files import files_lines, page_line, stray_lines, table_lines
from lavita.audit.scores import score_lines
from lavita.audit.settings import COMMIT, commit_lines, declared_lines, record_lines, setting_lines
from lavita.config.schema import ConfigError
from lavita.report.page import report_html
from lavita.results.audit_line import FAIL, AuditLine
from lavita.results.records import Record
from lavita.results.run_folder import RunFolder


def audit(run: RunFolder) -> list[AuditLine]:
    """Every check as lines, but for those of the page that shows them (`page_lines`).

    A check that can't be made, since what it reads was damaged, is a failure.
    """
    checks: list[tuple[str, Any]] = [
        ("data", lambda: data_lines(run)),
        ("settings", lambda: setting_lines(run)),
        ("records", lambda: record_lines(run)),
        ("budget", lambda: budget_lines(run)),
        ("clips", lambda: clips_lines(run)),
        ("scores", lambda: score_lines(run)),
        ("declarations", lambda: declared_lines(run)),
        ("files", lambda: files_lines(run)),
        ("folders", lambda: stray_lines(run)),
        ("tables", lambda: table_lines(run)),
    ]
    return [line for name, check in checks for line in made(name, check)]


def page_lines(run: RunFolder, lines: Sequence[AuditLine]) -> list[AuditLine]:
    """report.html against the same recomputed from the folder and the lines of `audit`."""
    return list(made("page", lambda: [page_line(run, report_html(run, lines))]))


def strictly(run: RunFolder, lines: Sequence[AuditLine]) -> list[AuditLine]:
    """The lines, where code that is not a clean commit fails."""
    return [line for line in lines if line.check != COMMIT] + list(commit_lines(run, strict=True))


def made(name: str, check: Any) -> Iterator[AuditLine]:
    """The lines of a check; an exception, as from a damaged folder, is one failure."""
    try:
        yield from check()
    except Exception as error:  # a record that was edited may lack anything
        yield AuditLine(f"{name} can be checked", "run", FAIL, f"{type(error).__name__}: {error}")


def is_open(record: Record) -> bool:
    """Whether a record is of an open row, by its row and its configuration alike."""
    if record.row.division != "open":
        return False
    try:
        return not record.identity or record.experiment().division == "open"
    except (ConfigError, KeyError, TypeError):
        return False


def fails_closed(run: RunFolder, lines: Sequence[AuditLine]) -> bool:
    """Whether a failure touches a closed table, or the run as a whole.

    A row is open where its configuration is, too, or where its samples are external: a row that only calls itself open
    would be out of reach else.
    """
    open_rows = {one.record.cell for one in run.attempts if is_open(one.record)}
    names = {one.name for one in run.attempts if one.record.cell in open_rows}

    def of_open_row(where: str) -> bool:
        return where in open_rows or (where.startswith("cells/") and where.split("/")[1] in names)

    return any(line.verdict == FAIL and not of_open_row(line.where) for line in lines)
