"""Every file of a part hashed into its record, and all records into one digest: what was edited later shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavita.bench.ledger import RECORD, read_record, write_record

PLAN = "run.json"
PARTS = ("cells", "shared")
LOCK = ".lock"  # in a results folder, and in an attempt that is worked on: who does
PROGRESS = "progress"  # of an attempt that is not finished: no part of it


@dataclass(frozen=True)
class Change:
    """A file that is not what its record says. None stands for a file that is not recorded, or not there."""

    file: str
    recorded: str | None
    found: str | None


def sha256_of(path: Path) -> str:
    """sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> dict[str, str]:
    """sha256 by path below folder, of every file but the record itself and what an unfinished attempt goes on from.

    Raises ValueError for a link: what it points to lies outside the seal.
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


def seal(folder: Path) -> None:
    """Hash every file of a part into its record. The part is finished: whatever changes later is an edit."""
    write_record(folder, read_record(folder) | {"files": files_of(folder)})


def changes(folder: Path, record: Mapping[str, Any]) -> list[Change]:
    """Where the files of a part are not those of its record."""
    recorded, found = record.get("files", {}), files_of(folder)
    names = sorted(set(recorded) | set(found))
    return [
        Change(name, recorded.get(name), found.get(name)) for name in names if recorded.get(name) != found.get(name)
    ]


def digest_of(run: Path) -> str:
    """One sha256 over the plan and every record of a results folder, superseded ones too."""
    files = [run / PLAN, *(path for part in PARTS for path in (run / part).glob(f"*/{RECORD}"))]
    lines = sorted(f"{path.relative_to(run).as_posix()} {sha256_of(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
