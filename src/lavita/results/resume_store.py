"""What a process keeps of unfinished work: files that are whole or not there, each with its hash in its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import Any

from lavita.files import atomic_write, sha256_of

HASH_DIGITS = 16


def hash_of(path: Path) -> str:
    """The first digits of a file's sha256."""
    return sha256_of(path)[:HASH_DIGITS]


class ResumeStore:
    """Files <name>.<hash><suffix> in one folder, of a name the last that was put.

    A file has its name only when it is written and stored, and is read only where its hash is that of its name: what
    was cut off or damaged is as if it had never been put. damaged: the names of files found to be so, for a note.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.damaged: list[str] = []

    def save(self, name: str, suffix: str, fill: Callable[[Path], Any]) -> Path:
        """Let fill write a file, keep it under the name, and let go of the one that had it. Raises OSError."""
        old = self.files(name, suffix)
        # The hash is known only of the whole file, so it is written beside its place first.
        waiting = self.folder / f".{name}{suffix}"
        atomic_write(waiting, fill)
        path = self.folder / f"{name}.{hash_of(waiting)}{suffix}"
        os.replace(waiting, path)
        for other in old:
            if other != path:
                other.unlink(missing_ok=True)
        return path

    def load(self, name: str, suffix: str) -> Path | None:
        """The file under a name, or None; one whose hash is another is removed."""
        for path in self.files(name, suffix):
            if hash_of(path) == path.name.removesuffix(suffix).rpartition(".")[2]:
                return path
            self.damaged.append(path.name)
            path.unlink(missing_ok=True)
        return None

    def files(self, name: str, suffix: str) -> list[Path]:
        """The files under a name, unread; more than one only where a process was ended between two steps of `save`."""
        found = self.folder.glob(f"{escape(name)}.{'[0-9a-f]' * HASH_DIGITS}{suffix}")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def names(self, start: str, suffix: str) -> list[str]:
        """Names that begin with `start`, sorted; `load` checks whether their files are whole."""
        found = self.folder.glob(f"{escape(start)}*.{'[0-9a-f]' * HASH_DIGITS}{suffix}")
        return sorted({path.name.removesuffix(suffix).rpartition(".")[0] for path in found})

    def delete(self, name: str, suffix: str) -> None:
        """Let go of a name."""
        for path in self.files(name, suffix):
            path.unlink(missing_ok=True)

    def save_value(self, name: str, value: Any) -> None:
        """Keep a plain value (JSON)."""
        self.save(name, ".json", lambda part: part.write_text(json.dumps(value) + "\n", encoding="utf-8"))

    def load_value(self, name: str) -> Any:
        """The plain value under a name, or None."""
        path = self.load(name, ".json")
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    def get_or_compute(self, name: str, make: Callable[[], Any]) -> Any:
        """The plain value under a name, made where it is not there."""
        value = self.load_value(name)
        if value is None:
            value = json.loads(json.dumps(make()))
            self.save_value(name, value)
        return value
