"""Files that appear whole or not at all, whatever ends the process meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def fill_whole(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write a temporary file in the same folder, store it, and put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        fill(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, UTF-8 with LF line ends, so that a reader sees the old one or the new one, never a part."""
    # Names of files may hold bytes that are no UTF-8; they are written as the bytes that they are.
    fill_whole(path, lambda part: part.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n"))
