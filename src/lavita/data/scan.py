"""Files -> what is in them: content hash and frame count of every video, in parallel, remembered between
calls.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .video import PICTURE_SUFFIXES, UnreadableVideo, probe

CACHE_VERSION = 1  # raise it when the meaning of a remembered value changes


@dataclass(frozen=True)
class Content:
    """frames: how many can be decoded; sha256: of a file's bytes, or of a frame folder's sorted names and
    bytes.
    """

    frames: int
    sha256: str


def scan(paths: Sequence[Path], root: Path, cache_file: Path | None = None) -> list[Content]:
    """Return the content of each video file or frame folder below root, in the order of paths.

    Hashing and decoding run in threads. With cache_file, results are kept in that JSON under the path
    relative to root and reused while size and modification time stay the same; the file is replaced in one
    step.
    Raises UnreadableVideo for the first unreadable video, with the number of further ones.
    """
    remembered = _load(cache_file)
    keys = [path.relative_to(root).as_posix() for path in paths]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        outcomes = list(pool.map(lambda path, key: _content(path, remembered.get(key)), paths, keys))
    good = {key: outcome for key, outcome in zip(keys, outcomes, strict=True) if isinstance(outcome, dict)}
    if cache_file is not None and any(remembered.get(key) != value for key, value in good.items()):
        _save(cache_file, remembered | good)
    broken = [outcome for outcome in outcomes if isinstance(outcome, UnreadableVideo)]
    if broken:
        more = f" (and {len(broken) - 1} more unreadable of {len(paths)} videos)" if len(broken) > 1 else ""
        raise UnreadableVideo(f"{broken[0]}{more}")
    return [Content(good[key]["frames"], good[key]["sha256"]) for key in keys]


def fingerprint(lines: Iterable[tuple[str, str, str]]) -> str:
    """sha256 of a data set: of its sorted lines "video_id sha256 split", each ended by a line feed."""
    text = "".join(sorted(f"{video_id} {sha256} {split}\n" for video_id, sha256, split in lines))
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes; of a frame folder: name, zero byte, byte count (8, big-endian), bytes, by
    name.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for picture in sorted(_picture_entries(path), key=lambda entry: entry.name):
        data = Path(picture.path).read_bytes()
        digest.update(picture.name.encode() + b"\0" + len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _content(path: Path, remembered: dict | None) -> dict | UnreadableVideo:
    """The cache record of one video, or its error: the caller wants all of them before it stops."""
    try:
        stamp = _stamp(path)
        if remembered is not None and {key: remembered.get(key) for key in stamp} == stamp:
            return remembered
        return stamp | {"frames": probe(path).frames, "sha256": content_hash(path)}
    except UnreadableVideo as error:
        return error
    except OSError as error:
        return UnreadableVideo(path, error.strerror or str(error))


def _stamp(path: Path) -> dict[str, int]:
    """Size and newest modification time; of a frame folder, over its pictures, with their number."""
    if not path.is_dir():
        status = path.stat()
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "files": 1}
    states = [entry.stat() for entry in _picture_entries(path)]
    newest = max((state.st_mtime_ns for state in states), default=0)
    return {"size": sum(state.st_size for state in states), "mtime_ns": newest, "files": len(states)}


def _picture_entries(folder: Path) -> list[os.DirEntry]:
    """The same files that video.py reads as frames."""
    with os.scandir(folder) as entries:
        return [e for e in entries if e.name.lower().endswith(PICTURE_SUFFIXES) and not e.name.startswith(".")]


def _load(cache_file: Path | None) -> dict[str, dict]:
    """Remembered records; a missing, damaged or older cache is an empty one, since all can be computed
    again.
    """
    try:
        stored = json.loads(cache_file.read_text(encoding="utf-8")) if cache_file else {}
    except (OSError, ValueError):
        return {}
    return stored["videos"] if stored.get("version") == CACHE_VERSION else {}


def _save(cache_file: Path, records: dict[str, dict]) -> None:
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    part = cache_file.with_name(f".{cache_file.name}.{os.getpid()}.part")
    part.write_text(json.dumps({"version": CACHE_VERSION, "videos": records}, indent=0), encoding="utf-8")
    os.replace(part, cache_file)
