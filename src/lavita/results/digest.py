"""Every file of a part hashed into its record, and all records into one digest: what was edited later shows."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lavita.files import remove_parts, sha256_of
from lavita.results.records import RECORD, AttemptRecord, read_record, write_record

PLAN = "run.json"
PARTS = ("cells", "shared")
LOCK = ".lock"  # in a results folder, and in an attempt that is worked on: who does
PROGRESS = "progress"  # of an attempt that is not finished: no part of it


@dataclass(frozen=True)
class FileChange:
    """A file that is not what its record says. None stands for a file that is not recorded, or not there."""

    file: str
    recorded: str | None
    found: str | None


def files_of(folder: Path) -> dict[str, str]:
    """sha256 by path below folder, of every file but the record itself and what an unfinished attempt resumes from.

    Raises ValueError for a link: what it points to lies elsewhere.
    """
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] == PROGRESS:
            continue
        if path.is_symlink():
            raise ValueError(f"{path}: is a link; a run folder holds its files itself")
        if path.is_file() and name != RECORD:
            found[name] = sha256_of(path)
    return found


def finalize_record(folder: Path, **changes: Any) -> None:
    """Hash every file of a part into its record, whose fields become those of changes. Whatever changes later is an
    edit.

    Nobody works on the part any more: what a process that was killed has left goes first.
    """
    record = read_record(folder, AttemptRecord)
    if record is None:
        raise ValueError(f"{folder}: no {RECORD} to put the files into")
    record = replace(record, **changes)
    remove_parts(folder)
    if record.status == "ok":
        shutil.rmtree(folder / PROGRESS, ignore_errors=True)
    write_record(folder, replace(record, files=files_of(folder)))


def changed_files(folder: Path, record: AttemptRecord) -> list[FileChange]:
    """Where the files of a part are not those of its record."""
    recorded, found = record.files or {}, files_of(folder)
    names = sorted(set(recorded) | set(found))
    return [
        FileChange(name, recorded.get(name), found.get(name)) for name in names if recorded.get(name) != found.get(name)
    ]


def digest_of(run: Path) -> str:
    """One sha256 over the plan and every record of a results folder, superseded ones too."""
    files = [run / PLAN, *(path for part in PARTS for path in (run / part).glob(f"*/{RECORD}"))]
    lines = sorted(f"{path.relative_to(run).as_posix()} {sha256_of(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
