"""Attempts at a run or at shared artifacts: a new one stands beside the old, nothing is written over; every file of a
finished one is hashed into its record, and all records into one digest, so that what was edited later shows.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from lavita.files import remove_parts, sha256_of
from lavita.results.records import RECORD, AttemptRecord, read_record, write_record

PLAN = "run.json"
PARTS = ("cells", "shared")
LOCK = ".lock"  # in a results folder, and in an attempt that is worked on: who does
PROGRESS = "progress"  # of an attempt that is not finished: no part of it
BEGUN = ".begun-"  # how folders begin that are no attempt yet
LATER = re.compile(r"(?P<name>.+)\.(?P<number>[1-9][0-9]*)")


def part_of(folder: Path) -> tuple[str, int]:
    """The part's name and the attempt's number of a folder: dit-s0 is attempt 1 of dit-s0, dit-s0.2 its second."""
    found = LATER.fullmatch(folder.name)
    return (found["name"], int(found["number"])) if found else (folder.name, 1)


def attempts(parent: Path, name: str) -> list[Path]:
    """The folders of a part's attempts, oldest first: name, name.2, name.3, ..."""
    found = [path for path in parent.glob(f"{escape(name)}*") if path.is_dir() and part_of(path)[0] == name]
    return sorted(found, key=lambda path: part_of(path)[1])


def new_attempt(parent: Path, name: str, fill: Callable[[Path], Any]) -> Path:
    """The folder of the next attempt, with what fill writes into it: there whole or not at all.

    Of two processes that ask at once each gets one of its own.
    """
    parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=BEGUN, dir=parent))
    part.chmod(0o777 & ~umask())
    fill(part)
    while True:
        old = attempts(parent, name)
        number = part_of(old[-1])[1] + 1 if old else 1
        folder = parent / (name if number == 1 else f"{name}.{number}")
        try:
            part.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            continue
        return folder


def umask() -> int:
    """The process's mask for new files, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def remove_begun(parent: Path) -> None:
    """Remove folders that never became an attempt: of processes that were killed at that moment."""
    for path in parent.glob(f"{BEGUN}*"):
        shutil.rmtree(path)


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
