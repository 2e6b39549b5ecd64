"""Checks a copy of a data set file by file, writes its manifest or holds it against one, and says what was found."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lavita.console import Display, Progress
from lavita.data.catalogue import SPLITS, dataset_facts
from lavita.data.layouts import cache_file, list_dataset
from lavita.data.manifest import (
    FILE_NAME,
    Row,
    check_replaceable,
    counts,
    differences,
    fingerprint_of,
    read_manifest,
    rows_of,
    write_manifest,
)
from lavita.data.scan import scan
from lavita.data.small_sets.recorded import read_small_set, small_set_names
from lavita.data.trees import Listing


def fetched(dataset: str, root: Path) -> bool:
    """Whether the tree of a data set, or of a small set, is in root now; where it must be asked for, how to ask has
    been printed.

    Raises ValueError, in one line, for what went wrong; the same command then resumes.
    """
    # Imported here, so that nothing else ever loads the code that opens a connection.
    from lavita.data.sources import fetch_dataset, fetch_small_set

    display = Display()
    channel = display.channel(f"download of {dataset}")

    def progress(name: str, done: int, total: int | None) -> None:
        unit = 2**20
        # Without a known total the bar shows what has come so far.
        channel.show(Progress(f"{name} (MiB)", done // unit, -(-(total or done + unit) // unit)))

    try:
        fetch = fetch_small_set if dataset in small_set_names() else fetch_dataset
        return fetch(dataset, root, display.line, progress)
    finally:
        channel.close()
        display.end()


@dataclass(frozen=True)
class Options:
    """What prepare.py is asked for. manifest None: in the root. frames, interval: the shortest clip that must fit.

    small_set: whose recorded frames the copy must have, None for a data set as it is published.
    """

    dataset: str
    small_set: str | None
    root: Path
    manifest: Path | None
    verify: bool
    fold: int | None
    frames: int
    interval: int
    workers: int | None
    cache: Path


def prepare(options: Options, say: Callable[[str], None] = print) -> int:
    """Check every video by decoding it; returns 0 where all are well (and equal to the manifest and to the recorded
    frames of a small set), else 1.

    Raises ValueError for a root, fold or manifest that can't be used, before anything is decoded.
    """
    listing = list_dataset(options.dataset, options.root, options.fold)
    path = options.manifest or listing.base / FILE_NAME
    before = read_manifest(path) if options.verify else None
    if before is None:
        check_replaceable(path)
        _check_writable(path)
    rows = checked_rows(options, listing)
    for row in rows:
        if row.status != "ok" or row.reason:
            say(f"{row.path}: {row.status}: {row.reason}")
    for line in summary(options, listing, rows):
        say(line)
    changed = [] if before is None else differences(before, rows)
    if before is None:
        write_manifest(path, rows)
        say(f"manifest     {path}")
    else:
        for line in changed:
            say(f"differs: {line}")
        say(f"manifest     {path}: {f'{len(changed)} videos differ' if changed else 'equal'}")
    others = other_frames(options.small_set, listing) if options.small_set else []
    if options.small_set:
        say(f"recorded     {recorded_line(options.small_set, others)}")
    return 0 if all_well(listing, rows) and not changed and not others else 1


def other_frames(small_set: str, listing: Listing) -> list[str]:
    """A line "path: reason" for each video of a copy that has not the frames recorded for a small set."""
    from lavita.data.small_sets.cutting import differences as frame_differences

    found = [Path(item.path).relative_to(listing.base).as_posix() for item in listing.items]
    return frame_differences(read_small_set(small_set), listing.base, found)


def recorded_line(small_set: str, others: list[str]) -> str:
    """Whether a copy has the recorded frames of a small set, and what to do where it has not."""
    if not others:
        return f"{small_set}: equal, frame by frame"
    return (
        f"{small_set}: {len(others)} videos differ, such as {others[0]}; fetch it into an empty folder; if it still "
        "differs, this machine's encoder rounds otherwise (docs/data.md) and the documents' numbers are of another copy"
    )


def checked_rows(options: Options, listing: Listing) -> list[Row]:
    """The rows of a listing, every file decoded anew; good results are kept for the runs that follow."""
    display = Display()
    channel = display.channel(f"{len(listing.items)} videos, each decoded once")

    def report(done: int, total: int) -> None:
        channel.show(Progress("checked", done, total))

    remembered = cache_file(options.cache, options.dataset, listing.base)
    paths = [item.path for item in listing.items]
    try:
        contents = scan(paths, listing.base, remembered, False, report, options.workers)
    finally:
        channel.close()
        display.end()
    return rows_of(listing, contents, (options.frames - 1) * options.interval + 1)


def all_well(listing: Listing, rows: list[Row]) -> bool:
    """Whether every video can be used and the data set's own lists are met exactly."""
    return not listing.missing and all(row.status == "ok" and row.split for row in rows)


def summary(options: Options, listing: Listing, rows: list[Row]) -> list[str]:
    """What was expected, found and missing, how many of each status and split, and the fingerprint."""
    facts = dataset_facts(options.dataset)
    listed = [row for row in rows if row.split]
    lines = [f"{facts.title} in {listing.base}"]
    if listing.list_names:
        lines += [f"expected     {len(listed) + len(listing.missing)} ({' and '.join(listing.list_names)})"]
    else:
        lines += ["expected     whatever the folders hold: this data set has no lists of its own"]
    lines += [f"published    {facts.published_counts}", f"found        {len(listed)}"]
    lines += [f"missing      {len(listing.missing)}" if listing.list_names else "missing      not known"]
    lines += [f"  {name}: missing" for name in listing.missing]
    if listing.passed_over:
        lines += [f"passed over  {listing.passed_over}"]
    if len(listed) < len(rows):
        lines += [f"not listed   {len(rows) - len(listed)}"]
    lines += [f"{status:12} {number}" for status, number in counts(rows).items()]
    lines += [f"{split:12} {sum(row.split == split for row in rows)}" for split in SPLITS]
    return [*lines, f"fingerprint  {fingerprint_of(rows)}"]


def _check_writable(path: Path) -> None:
    """Raise ValueError where no manifest can be written, before hours of decoding."""
    if path.is_dir():
        raise ValueError(f"--manifest: {path} is a folder, wanted a file")
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{path}: can't be written ({error.strerror}); give --manifest FILE in a folder that can"
        ) from None
