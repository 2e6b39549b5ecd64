"""Attempts at a cell or at shared artifacts: a new one stands beside the old, nothing is written over."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import Any

BEGUN = ".begun-"
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
