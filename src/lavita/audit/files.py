"""Are the files those that the records name, the tables those that the records say, the digest the one given?"""

from __future__ import annotations

import os
from collections.abc import Iterator

from lavita.report.write import TABLES, tables_of_run
from lavita.results.attempts import PARTS, FileChange, changed_files
from lavita.results.audit_line import FAIL, PASS, AuditLine, equal, short
from lavita.results.records import RECORD, AttemptRecord
from lavita.results.run_folder import RunFolder

FILES, TABLE, DIGEST, STRAY = "files as recorded", "tables as the records say", "digest", "nothing unrecorded"
REPORT = "report.html"


def files_lines(run: RunFolder) -> Iterator[AuditLine]:
    """A line a part whose files are all as its record says, else one for each file that is not."""
    parts: list[tuple[str, str, AttemptRecord]] = []
    parts += [("cells", one.name, one.record) for one in (*run.attempts, *run.others)]
    parts += [("shared", name, one.record) for name, one in run.shared.items()]
    for kind, name, record in parts:
        where = f"{kind}/{name}"
        if record.files is None:
            if record.status in ("ok", "failed", "diverged", "over_budget"):
                yield AuditLine(FILES, where, FAIL, f"status {record.status}, but no file is recorded")
            continue
        try:
            found = changed_files(run.path / kind / name, record)
        except ValueError as error:
            yield AuditLine(FILES, where, FAIL, str(error))
            continue
        for change in found:
            yield AuditLine(FILES, f"{where}/{change.file}", FAIL, change_text(change))
        if not found:
            yield AuditLine(FILES, where, PASS, f"{len(record.files)} files")


def change_text(change: FileChange) -> str:
    """What a change is."""
    if change.found is None:
        return f"recorded with sha256 {str(change.recorded)[:16]}, but not there"
    if change.recorded is None:
        return f"sha256 {change.found[:16]}, but not recorded"
    return f"sha256 {change.found[:16]}, but recorded {change.recorded[:16]}"


def stray_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Folders below cells/ and shared/ without a record."""
    known = {("cells", one.name) for one in (*run.attempts, *run.others)} | {("shared", name) for name in run.shared}
    stray = [
        path.relative_to(run.path).as_posix()
        for part in PARTS
        for path in sorted((run.path / part).glob("*"))
        if (part, path.name) not in known and not (path / RECORD).is_file()
    ]
    for name in stray:
        yield AuditLine(STRAY, name, FAIL, f"there, but without a {RECORD}")
    if not stray:
        yield AuditLine(STRAY, "run", PASS, "every folder has a record")


def table_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Each generated table against the same recomputed from the records."""
    wanted = tables_of_run(run).texts
    for name in TABLES:
        path = run.path / name
        found = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else None
        if found == wanted.get(name):
            if found is not None:
                yield AuditLine(TABLE, name, PASS, "the same recomputed from the records")
        elif found is None:
            yield AuditLine(TABLE, name, FAIL, "not there, but the records give one")
        elif name not in wanted:
            yield AuditLine(TABLE, name, FAIL, "there, but the records give none")
        else:
            yield AuditLine(TABLE, name, FAIL, first_difference(found, wanted[name]))


def page_line(run: RunFolder, wanted: str) -> AuditLine:
    """report.html against the same recomputed."""
    path = run.path / REPORT
    if not path.is_file():
        return AuditLine(TABLE, REPORT, FAIL, "not there, but the records give one")
    found = path.read_text(encoding="utf-8", errors="surrogateescape")
    if found == wanted:
        return AuditLine(TABLE, REPORT, PASS, "the same recomputed from the folder and its audit")
    return AuditLine(TABLE, REPORT, FAIL, first_difference(found, wanted))


def first_difference(found: str, wanted: str) -> str:
    """The first line in which two texts differ, from a little before the place."""
    pairs = zip([*found.splitlines(), ""], [*wanted.splitlines(), ""], strict=False)
    for number, (one, other) in enumerate(pairs, start=1):
        if one != other:
            start = max(0, len(os.path.commonprefix([one, other])) - 30)
            return f"line {number}: '{short(one[start:], 70)}', but the records give '{short(other[start:], 70)}'"
    return "other line ends or trailing lines than the records give"


def digest_line(run: RunFolder, given: str) -> AuditLine:
    """The digest that was handed over against that of the folder."""
    return equal(DIGEST, "run", run.digest, given.strip().lower(), "given")
