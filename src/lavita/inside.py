"""A name that stands in a file somebody handed over -> the path beside that file, and never one anywhere else."""

from __future__ import annotations

from pathlib import Path

SHOWN = 80  # letters of a wrong name in a message


def inside(folder: Path, name: object, where: str) -> Path:
    """The path of a file directly in folder, there or not. where: the file that names it and the entry, for messages.

    Raises ValueError, one line, for an absolute path, one that leads into another folder, for anything that is no
    name, and for a link, since what it points to lies elsewhere.
    """
    plain = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
    if not plain:
        raise ValueError(f"{where} is {repr(name)[:SHOWN]}, wanted the name of a file beside it")
    path = folder / str(name)
    if path.is_symlink():
        raise ValueError(f"{where} is {repr(name)[:SHOWN]}, which is a link there; wanted the file itself")
    return path
