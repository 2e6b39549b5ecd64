"""What a copy of a data set consists of, one row per video, as a CSV to compare another copy with."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from lavita.data.scan import Content, fingerprint
from lavita.data.trees import Item, Listing
from lavita.files import atomic_write

STATUSES = ("ok", "unreadable", "too_short", "duplicate", "empty", "not_video")
FILE_NAME = "manifest.csv"


@dataclass(frozen=True, slots=True)
class Row:
    """One video as the manifest has it, all text: path below the root, numbers as they print, '' where unknown.

    class_name stands under the heading "class". split: train or heldout, '' where the data set's lists do not name it.
    """

    path: str
    video_id: str
    group: str
    class_name: str
    split: str
    frames: str
    fps: str
    width: str
    height: str
    sha256: str
    status: str
    reason: str


COLUMNS = tuple({"class_name": "class"}.get(field.name, field.name) for field in fields(Row))


def rows_of(listing: Listing, contents: Sequence[Content], least_frames: int) -> list[Row]:
    """The rows of a listing's videos, in its order. A video of fewer than least_frames frames is too_short."""
    repeated = conflicts(listing.items, contents)
    rows = []
    for number, (item, content) in enumerate(zip(listing.items, contents, strict=True)):
        status, reason = content.status, content.reason
        if status == "ok" and content.frames < least_frames:
            status, reason = "too_short", f"{content.frames} frames, wanted at least {least_frames}"
        elif status == "ok" and number in repeated:
            kind, other = repeated[number]
            first = listing.items[other]
            status, reason = "duplicate", f"same {kind} as {below(first.path, listing.base)} ({first.split})"
        elif status == "ok" and not item.split:
            reason = f"stands in neither {' nor '.join(listing.list_names)}"
        known = content.status == "ok"
        rows.append(
            Row(
                path=below(item.path, listing.base),
                video_id=item.video_id,
                group=item.group,
                class_name=item.class_name or "",
                split=item.split,
                frames=str(content.frames) if known else "",
                fps="" if content.fps is None else f"{content.fps:.6g}",
                width=str(content.width) if known else "",
                height=str(content.height) if known else "",
                sha256=content.sha256,
                status=status,
                reason=reason,
            )
        )
    return rows


def conflicts(items: Sequence[Item], contents: Sequence[Content]) -> dict[int, tuple[str, int]]:
    """Videos that repeat an earlier one, by position: what is the same (video id, content or group), and which it is.

    Ids and contents must be unique in the whole data set; a group may hold many videos, but of one split only. Videos
    outside the splits repeat nothing.
    """
    first: dict[tuple[str, str], int] = {}
    found: dict[int, tuple[str, int]] = {}
    for number, (item, content) in enumerate(zip(items, contents, strict=True)):
        if not item.split or content.status != "ok":
            continue
        keys = [("content", content.sha256), ("video id", item.video_id), ("group", item.group)]
        for key in keys:
            other = first.get(key)
            if other is not None and (key[0] != "group" or items[other].split != item.split):
                found.setdefault(number, (key[0], other))
        if number not in found:
            for key in keys:
                first.setdefault(key, number)
    return found


def fingerprint_of(rows: Iterable[Row]) -> str:
    """The data set's fingerprint: over every video that stands in a split, whatever its status."""
    return fingerprint((row.video_id, row.sha256, row.split) for row in rows if row.split)


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """How many videos have each status, all statuses named."""
    found = Counter(row.status for row in rows)
    return {status: found[status] for status in STATUSES}


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows as CSV, UTF-8; the file appears whole or not at all."""

    def fill(part: Path) -> None:
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(astuple(row) for row in rows)

    atomic_write(path, fill)


def check_replaceable(path: Path) -> None:
    """Raise ValueError where a file is there that is no manifest: it would be written over."""
    if path.is_file() and path.stat().st_size:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            if tuple(next(csv.reader([file.readline()]), [])) != COLUMNS:
                raise ValueError(f"{path}: is there and no manifest; give --manifest another file")


def read_manifest(path: Path) -> list[Row]:
    """The rows of a manifest. Raises ValueError naming the line that is not one."""
    if not path.is_file():
        raise ValueError(f"{path}: no such manifest; prepare.py without --verify writes one")
    rows = []
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        head = next(reader, [])
        if tuple(head) != COLUMNS:
            raise ValueError(f"{path}: got columns {','.join(head)[:200]!r}, wanted {','.join(COLUMNS)}")
        for values in reader:
            if len(values) != len(COLUMNS) or values[-2] not in STATUSES:
                raise ValueError(f"{path}: line {reader.line_num} is no row of a manifest: {','.join(values)[:200]!r}")
            rows.append(Row(*values))
    return rows


def differences(before: Sequence[Row], now: Sequence[Row]) -> list[str]:
    """One line per video that was added, is gone or changed, by path: what differs, before -> now."""
    old, new = ({row.path: row for row in rows} for rows in (before, now))
    lines = [f"{path}: gone" for path in old if path not in new]
    for path, row in new.items():
        if path not in old:
            lines.append(f"{path}: added ({row.status})")
            continue
        changed = [
            f"{name} {was or '(empty)'} -> {is_ or '(empty)'}"
            for name, was, is_ in zip(COLUMNS, astuple(old[path]), astuple(row), strict=True)
            if was != is_
        ]
        if changed:
            lines.append(f"{path}: {', '.join(changed)}")
    return lines


def below(path: str, base: Path) -> str:
    """A path as a manifest has it: relative to the root, with slashes."""
    return Path(path).relative_to(base).as_posix()
