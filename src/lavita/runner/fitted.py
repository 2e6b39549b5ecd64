"""What is fitted once and kept in the cache: a folder named by a hash of all that it was fitted from."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lavita.registry import ROOT


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
    """The folder cache/name, made by fit where it is not there; it appears whole or not at all."""
    folder = cache / name
    if folder.is_dir():
        return folder
    part = cache / f".{name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    fit(part)
    try:
        part.rename(folder)
    except OSError:
        # Another run put its equal result there meanwhile.
        shutil.rmtree(part)
    return folder
