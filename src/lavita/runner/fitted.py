"""What is fitted once and kept in the cache: a folder named by a hash of all that it was fitted from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lavita.locked import locked
from lavita.registry import ROOT
from lavita.runner.events import emit
from lavita.whole import remove_parts


def source_hash(*packages: str) -> str:
    """sha256 over the source of packages of ours: what was fitted by other code is fitted again."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((ROOT / "src" / "lavita" / package).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(*parts: Any) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def fitted(cache: Path, name: str, fit: Callable[[Path], None]) -> Path:
    """The folder cache/name, made by fit where it is not there; it has its name only when it is whole.

    fit gets a folder that holds what an earlier call had come to, where one was ended; of two runs at once the second
    waits.
    """
    folder, part = cache / name, cache / f".{name}.part"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f".{name}.lock", lambda: emit("note", text=f"another run fits {name}; waiting")):
        if not folder.is_dir():
            part.mkdir(exist_ok=True)
            fit(part)
            remove_parts(part)
            part.rename(folder)
    return folder
