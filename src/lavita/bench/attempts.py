"""Attempts at a part of a run (a cell, the shared parts): a new one stands beside the old, nothing is written over."""

from __future__ import annotations

import re
from glob import escape
from pathlib import Path

LATER = re.compile(r"(?P<name>.+)\.(?P<number>[1-9][0-9]*)")


def part_of(folder: Path) -> tuple[str, int]:
    """The part's name and the attempt's number of a folder: dit-s0 is attempt 1 of dit-s0, dit-s0.2 its second."""
    found = LATER.fullmatch(folder.name)
    return (found["name"], int(found["number"])) if found else (folder.name, 1)


def attempts(parent: Path, name: str) -> list[Path]:
    """The folders of a part's attempts, oldest first: name, name.2, name.3, ..."""
    found = [path for path in parent.glob(f"{escape(name)}*") if path.is_dir() and part_of(path)[0] == name]
    return sorted(found, key=lambda path: part_of(path)[1])


def new_attempt(parent: Path, name: str) -> Path:
    """An empty folder for the next attempt; of two processes that ask at once each gets one of its own."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        old = attempts(parent, name)
        number = part_of(old[-1])[1] + 1 if old else 1
        folder = parent / (name if number == 1 else f"{name}.{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
