"""What the extractors need of the package transformers, which is not installed with the project: local files alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from lavita.score.weights import git_blob_hash

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def import_transformers(who: str) -> ModuleType:
    """The package. Raises ValueError, one line, where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise ValueError(f"extractor {who}: needs the package transformers; pip install transformers") from None
    return transformers


def read_config(folder: Path | str, title: str, model_type: str) -> dict[str, Any]:
    """The configuration of a folder that holds config.json and model.safetensors. Raises ValueError for another one."""
    folder = Path(folder)
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.is_file():
            raise ValueError(f"{title}: looked for {file}: it is not there; give a folder with {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{title}: {folder / CONFIG} cannot be read ({error})") from None
    if found != model_type:
        raise ValueError(f"{title}: {folder / CONFIG} says model_type {found!r}, wanted {model_type!r}")
    return config


def folder_hash(folder: Path | str) -> str:
    """sha256 in 64 hex digits over the git blob names of the configuration and the weights."""
    names = [f"{name} {git_blob_hash(Path(folder) / name)}\n" for name in (CONFIG, WEIGHTS)]
    return hashlib.sha256("".join(names).encode()).hexdigest()
