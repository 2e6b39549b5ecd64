"""The shared parts of a run's groups: those that a run has fitted before serve again, else a new attempt is made."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lavita.bench.attempts import attempts, new_attempt
from lavita.bench.ledger import read_record, write_record
from lavita.bench.plan import shared_code_hash
from lavita.bench.seal import changes, seal
from lavita.bench.shared_parts import read_shared
from lavita.data.catalogue import SPLITS
from lavita.runner.devices import environment_of
from lavita.runner.groups import Group
from lavita.runner.launch import Ended, Interrupted
from lavita.runner.work import Work, shown
from lavita.whole import write_whole


@dataclass(frozen=True)
class Shared:
    """values: shared.json with paths as they lie now, and `outside`: sha256 of each outside file of the cells."""

    group: Group
    folder: Path
    values: dict[str, Any]


def fit_shared(work: Work, groups: Sequence[Group]) -> list[Shared]:
    """Codec, extractor and real features of every group. Raises ValueError where they can't be had."""

    def fit(group: Group, worker: int) -> Shared:
        of = "" if len(groups) == 1 else f" of {', '.join(dict.fromkeys(cell.label for cell in group.cells))}"
        return serve(work, group, f"shared parts: codec, extractor, real clips{of}", worker)

    return work.in_turn([lambda worker, group=group: fit(group, worker) for group in groups])


def serve(work: Work, group: Group, title: str, worker: int) -> Shared:
    """The parts of a group, from an earlier attempt where that is whole and was made from the same."""
    parent, mark = work.folder / "shared", identity(group)
    folder = earlier(parent, group.key, mark)
    if folder is not None:
        scratch = work.folder / f".check-{group.key}"  # kept where the check fails: it holds the log
        ended = fitting(work, group, folder, scratch, title, worker, reuse=True)
        shutil.rmtree(scratch)
        if ended.result["status"] == "ok":
            return Shared(group, folder, read_shared(folder) | {"outside": ended.result["outside"]})
        work.display.line(f"{title}: fitted again: {ended.reason}")
    folder = new_attempt(parent, group.key)
    record = first_record(group, mark)
    write_record(folder, record)
    try:
        ended = fitting(work, group, folder, folder, title, worker, reuse=False)
    except Interrupted:
        write_record(folder, record | {"status": "interrupted", "reason": "interrupted from the keyboard"})
        raise
    except ValueError as error:
        write_record(folder, record | {"status": "failed", "reason": str(error)})
        raise
    write_record(folder, record | {"status": "ok"})
    seal(folder)
    return Shared(group, folder, read_shared(folder) | {"outside": ended.result["outside"]})


def fitting(work: Work, group: Group, folder: Path, notes: Path, title: str, worker: int, reuse: bool) -> Ended:
    """The process that fits the parts into folder, or with reuse only checks that they serve; notes: of its log.

    Raises ValueError in one line where it fails.
    """
    spec = {"cells": [asdict(cell) for cell in group.cells], "cache": str(work.cache), "reuse": reuse}
    write_whole(notes / "spec.json", json.dumps(spec, indent=1) + "\n")
    channel = work.display.channel(title)
    environment = environment_of(worker, group.cells[0].compute.threads)
    arguments = [str(notes / "spec.json"), str(folder)]
    ended = work.launcher.run("lavita.runner.shared", arguments, notes / "log.txt", channel.show, environment)
    channel.close()
    if ended.code != 0 or ended.result is None:
        raise ValueError(f"{ended.reason} (log: {shown(notes / 'log.txt')})")
    return ended


def identity(group: Group) -> str:
    """A hash of what the parts are made from: configuration, code, data."""
    parts = [group.key, shared_code_hash(), group.source.catalogue.fingerprint]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def earlier(parent: Path, key: str, mark: str) -> Path | None:
    """The newest whole attempt that was made from the same."""
    for folder in reversed(attempts(parent, key)):
        record = read_record(folder)
        if record and record["status"] == "ok" and record["identity"] == mark and not changes(folder, record):
            return folder
    return None


def first_record(group: Group, mark: str) -> dict[str, Any]:
    """The record of parts that are about to be fitted: what data they are made from."""
    catalogue, protocol = group.source.catalogue, group.cells[0].protocol
    return {
        "cell": f"shared parts {group.key}",
        "status": "running",
        "reason": "",
        "identity": mark,
        "dataset": group.source.label,
        "fingerprint": catalogue.fingerprint,
        "splits": {split: len(catalogue.split(split)) for split in SPLITS},
        "left_out": list(catalogue.notes),
        "protocol": protocol.to_dict(),
    }
