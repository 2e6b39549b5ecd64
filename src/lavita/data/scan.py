"""Files -> what is in them: content hash, frames and status of every video, in parallel, remembered between calls."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lavita.data.decoding.containers import UnreadableVideo
from lavita.data.decoding.pictures import PICTURE_SUFFIXES
from lavita.data.seek import pack, unpack
from lavita.data.video import probe

CACHE_VERSION = 3  # raise it when the meaning of a remembered value changes
AT_ONCE = 2048  # videos handed to the threads at a time: a million waiting tasks would fill the memory
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Content:
    """What a video is: how many frames can be decoded; sha256 of a file's bytes, or of a frame folder's sorted names
    and bytes; frames per second (None for a folder); pixels; entries as in VideoInfo; status ok, unreadable, empty or
    not_video, with the reason where it is not ok.
    """

    frames: int
    sha256: str
    fps: float | None = None
    width: int = 0
    height: int = 0
    entries: bytes = b""
    status: str = "ok"
    reason: str = ""


def scan(
    paths: Sequence[Path | str],
    root: Path,
    cache_file: Path | None = None,
    believe_cache: bool = True,
    report: Report | None = None,
    workers: int | None = None,
) -> list[Content]:
    """Return the content of each video file or frame folder below root, in the order of paths.

    Hashing and decoding run in threads. With cache_file, good results are added to that file as they come, under the
    path relative to root, and (unless believe_cache is False) reused while size and modification time stay the same;
    so a call that was killed is resumed by the next. report(done, all) is called as videos are done.
    """
    keys = [Path(path).relative_to(root).as_posix() for path in paths]
    remembered = _load(cache_file, set(keys)) if believe_cache else {}
    found: list[Content] = []
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool, _Cache(cache_file) as cache:
        for start in range(0, len(paths), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            old = [remembered.get(key) for key in keys[part]]
            for key, (stamp, content), before in zip(
                keys[part], pool.map(_examined, map(Path, paths[part]), old), old, strict=True
            ):
                found.append(content)
                if content.status == "ok" and before != (stamp, content):
                    cache.add(key, stamp, content)
                if report:
                    report(len(found), len(paths))
    return found


def fingerprint(lines: Iterable[tuple[str, str, str]]) -> str:
    """sha256 of a data set: of its sorted lines "video_id sha256 split", each ended by a line feed."""
    text = "".join(sorted(f"{video_id} {sha256} {split}\n" for video_id, sha256, split in lines))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes; of a frame folder: name, zero byte, byte count (8, big-endian), bytes, by name."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for picture in sorted(_picture_entries(path), key=lambda entry: entry.name):
        data = Path(picture.path).read_bytes()
        name = picture.name.encode("utf-8", "surrogateescape")
        digest.update(name + b"\0" + len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _examined(path: Path, remembered: tuple[list[int], Content] | None) -> tuple[list[int], Content]:
    """Stamp and content of one video; what is wrong with it is its status, since the caller wants all of them."""
    stamp: list[int] = []
    try:
        stamp = _stamp(path)
        if remembered is not None and remembered[0] == stamp:
            return remembered
        sha256 = content_hash(path)
    except OSError as error:
        return stamp, Content(0, "", status="unreadable", reason=error.strerror or str(error))
    try:
        info = probe(path, thorough=True)
    except UnreadableVideo as error:
        return stamp, Content(0, sha256, status=error.status, reason=error.reason or str(error))
    except OSError as error:
        return stamp, Content(0, sha256, status="unreadable", reason=error.strerror or str(error))
    return stamp, Content(info.frames, sha256, info.fps, info.width, info.height, info.entries)


def _stamp(path: Path) -> list[int]:
    """Bytes, newest modification time in ns, and number of files; of a frame folder, of its pictures."""
    if not path.is_dir():
        status = path.stat()
        return [status.st_size, status.st_mtime_ns, 1]
    states = [entry.stat() for entry in _picture_entries(path)]
    newest = max((state.st_mtime_ns for state in states), default=0)
    return [sum(state.st_size for state in states), newest, len(states)]


def _picture_entries(folder: Path) -> list[os.DirEntry]:
    """The same files that video.py reads as frames."""
    with os.scandir(folder) as entries:
        return [e for e in entries if e.name.lower().endswith(PICTURE_SUFFIXES) and not e.name.startswith(".")]


class _Cache:
    """A file of JSON lines that only ever grows; the last line of a video counts."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.file = path, None

    def __enter__(self) -> _Cache:
        return self

    def add(self, key: str, stamp: list[int], content: Content) -> None:
        """Append one record in one write, so that those of two processes never mix within a line."""
        if self.path is None:
            return
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            # Ends a line that a killed process left unfinished; an empty one is passed over.
            os.write(self.file, b"\n")
        values = [content.frames, content.sha256, content.fps, content.width, content.height]
        entries = [number for entry in unpack(content.entries) for number in entry]
        os.write(self.file, (json.dumps([CACHE_VERSION, key, stamp, values, entries]) + "\n").encode())

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            os.close(self.file)


def _load(cache_file: Path | None, wanted: set[str]) -> dict[str, tuple[list[int], Content]]:
    """Remembered stamps and contents of the wanted videos; damaged and older lines are passed over."""
    found = {}
    for record in _lines(cache_file):
        try:
            version, key, stamp, values, entries = record
            if version == CACHE_VERSION and key in wanted:
                pairs = list(zip(entries[::2], entries[1::2], strict=True))
                found[key] = (stamp, Content(*values, entries=pack(pairs)))
        except (TypeError, ValueError):
            continue
    return found


def _lines(cache_file: Path | None) -> Iterator[object]:
    """The JSON values of a file's lines; lines that are none are passed over, since all can be computed again."""
    try:
        file = cache_file.open(encoding="utf-8", errors="replace") if cache_file else None
    except OSError:
        return
    if file is not None:
        with file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue
