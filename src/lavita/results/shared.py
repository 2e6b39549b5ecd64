"""What all cells of a group share, as the file that says where it lies and what it is."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lavita.files import atomic_write_text, require_inside
from lavita.results.records import csv_text

SHARED, VIDEOS = "shared.json", "videos.csv"
VIDEO_COLUMNS = ("video_id", "group", "split", "sha256", "used")
PATHS = ("real", "extractor", "codec")  # kept as names below the folder


def write_shared(folder: Path, shared: dict[str, Any]) -> None:
    """shared.json, whole; paths as names below folder, so that the folder may be moved."""
    names = {key: shared[key] and Path(shared[key]).name for key in PATHS}
    names["splits"] = {split: Path(path).name for split, path in shared["splits"].items()}
    atomic_write_text(folder / SHARED, json.dumps(shared | names, indent=1) + "\n")


def read_shared(folder: Path) -> dict[str, Any]:
    """What `write_shared` wrote, with paths in the folder as it lies now. Raises ValueError for a path out of it."""
    shared = json.loads((folder / SHARED).read_text())
    given = {key: shared[key] for key in PATHS if shared[key]} | shared["splits"]
    for key, name in given.items():
        require_inside(folder, name, f"{folder / SHARED}: {key}")
    shared |= {key: shared[key] and str(folder / shared[key]) for key in PATHS}
    return shared | {"splits": {split: str(folder / name) for split, name in shared["splits"].items()}}


def write_videos(folder: Path, lines: Iterable[Sequence[str]]) -> None:
    """videos.csv: every video that the fingerprint covers, and whether clips were made from it (true or false)."""
    atomic_write_text(folder / VIDEOS, csv_text([list(VIDEO_COLUMNS), *map(list, lines)]))


def read_videos(folder: Path) -> Iterator[dict[str, str]]:
    """The lines of videos.csv by column. Raises ValueError for other columns."""
    with (folder / VIDEOS).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != VIDEO_COLUMNS:
            raise ValueError(f"{folder / VIDEOS}: columns {reader.fieldnames}, wanted {', '.join(VIDEO_COLUMNS)}")
        yield from reader
