"""Are the clips as many as the table says, each there once, from seeds that all rows share?"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lavita.audit.settings import audited, good, groups
from lavita.results.audit_line import FAIL, PASS, AuditLine, same
from lavita.results.run_folder import Attempt, RunFolder
from lavita.results.shared import VIDEOS, read_videos

GENERATED, SEEDS, SAME_SEEDS = "generated clips, each once", "one seed a clip", "same sampling seeds"
REAL, DATA, DISJOINT = "real clips, each once", "data behind the fingerprint", "train and held-out disjoint"


def clips_lines(run: RunFolder) -> Iterator[AuditLine]:
    """The generated clips of every row."""
    seeds: dict[str, str] = {}
    for one in run.attempts:
        if one.record.status != "ok":
            continue
        name, entries = one.record.cell, manifest(run, one)
        wrong = list(clip_problems(run, one, entries))
        yield AuditLine(GENERATED, name, FAIL if wrong else PASS, "; ".join(wrong) or f"{len(entries)} clips")
        if one.record.identity:
            given = [entry.get("seed") for entry in entries]
            fine = all(isinstance(seed, int) for seed in given) and len(set(given)) == len(given)
            said = f"{len(given)} seeds" if fine else f"{len(given)} clips, but {len(set(given) - {None})} seeds"
            yield AuditLine(SEEDS, name, PASS if fine else FAIL, said)
            seeds[name] = spelled(given)
    for records in groups(run, audited(run)):
        yield from same(SAME_SEEDS, {name: seeds[name] for name in records})


def manifest(run: RunFolder, one: Attempt) -> list[dict[str, Any]]:
    """The clips that a run lists; [] where it lists none."""
    path = run.folder_of(one) / "samples" / "clips.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["clips"]
    except (OSError, KeyError, ValueError):
        return []


def spelled(seeds: Sequence[Any]) -> str:
    """Seeds as a range where they are one, else their hash, so that a difference shows in one line."""
    if seeds and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return f"{len(seeds)} seeds, sha256 {hashlib.sha256(str(seeds).encode()).hexdigest()[:12]}"


def clip_problems(run: RunFolder, one: Attempt, entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with a row's clips."""
    folder, wanted = run.folder_of(one), one.record.row.n_generated
    if len(entries) != wanted:
        yield f"{len(entries)} clips are listed, but the row says {wanted}"
    there = {path.name for path in (folder / "samples").glob("*.mkv")}
    missing = [entry["file"] for entry in entries if entry["file"] not in there]
    if missing:
        yield f"{missing[0]} and {len(missing) - 1} more are listed, but not there"
    stray = sorted(there - {entry["file"] for entry in entries})
    if stray:
        yield f"{stray[0]} and {len(stray) - 1} more are there, but not listed"
    twice = [name for name, count in Counter(entry["sha256"] for entry in entries).items() if count > 1]
    if twice:
        same_clip = [entry["file"] for entry in entries if entry["sha256"] == twice[0]]
        yield f"{same_clip[0]} and {same_clip[1]} are the same clip"
    rows = len(read_arrays(folder / "samples.npz").get("features", ()))
    if rows != wanted:
        yield f"features of {rows} clips are stored, but the row says {wanted}"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, never unpickled; {} where there is none."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def data_lines(run: RunFolder) -> Iterator[AuditLine]:
    """The videos and the real clips of the shared artifacts that rows were made with."""
    used = {record.shared for record in good(run).values()}
    for name in sorted(used & set(run.shared)):
        yield from shared_lines(run, name)


def shared_lines(run: RunFolder, name: str) -> Iterator[AuditLine]:
    """The lines of one set of shared artifacts."""
    folder, record, where = run.shared_folder(name), run.shared[name].record, f"shared/{name}"
    try:
        videos = list(read_videos(folder))
    except (OSError, ValueError) as error:
        yield AuditLine(DATA, where, FAIL, f"{VIDEOS} can't be read: {error}")
        return
    lines = sorted(f"{video['video_id']} {video['sha256']} {video['split']}\n" for video in videos)
    mark = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    used = Counter(video["split"] for video in videos if video["used"] == "true")
    wrong = (
        [] if mark == record.fingerprint else [f"{VIDEOS} gives {mark[:16]}, but recorded {record.fingerprint[:16]}"]
    )
    for split, count in record.splits.items():
        if used[split] != count:
            wrong.append(f"{used[split]} videos of {split}, but recorded {count}")
    said = ", ".join(f"{count} {split}" for split, count in sorted(used.items(), reverse=True))
    yield AuditLine(DATA, where, FAIL if wrong else PASS, "; ".join(wrong) or f"{mark[:16]}: {said}")
    yield disjoint(where, [video for video in videos if video["used"] == "true"])
    yield real_line(run, name, {v["video_id"]: v["split"] for v in videos if v["used"] == "true"})


def disjoint(where: str, videos: Sequence[dict[str, str]]) -> AuditLine:
    """No id, group or content stands in both splits."""
    for column in ("video_id", "group", "sha256"):
        split_of: dict[str, str] = {}
        for video in videos:
            other = split_of.setdefault(video[column], video["split"])
            if other != video["split"]:
                return AuditLine(
                    DISJOINT, where, FAIL, f"{column} {video[column]} stands in {other} and {video['split']}"
                )
    return AuditLine(DISJOINT, where, PASS, "by video, group and content")


def real_line(run: RunFolder, name: str, split_of: dict[str, str]) -> AuditLine:
    """The real clips are windows of the protocol's split, as many as it says, none twice."""
    protocol = run.shared[name].record.protocol
    names = [str(item) for item in read_arrays(run.shared_folder(name) / "real.npz").get("names", ())]
    allowed = protocol.split.split("+")
    foreign = [item for item in names if split_of.get(item.rpartition("@")[0]) not in allowed]
    wrong = []
    if len(names) != protocol.n_real:
        wrong.append(f"{len(names)} real clips, but the protocol says {protocol.n_real}")
    if len(set(names)) != len(names):
        wrong.append(f"{len(names)} real clips, but {len(set(names))} different ones")
    if foreign:
        wrong.append(f"{foreign[0]} is a window of {split_of.get(foreign[0].rpartition('@')[0])}, but the protocol "
                     f"says {protocol.split}")  # fmt: skip
    return AuditLine(REAL, f"shared/{name}", FAIL if wrong else PASS, "; ".join(wrong) or f"{len(names)} windows")
