"""What becomes of each run when a command is given: finished before, resumed, begun, or left as it failed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lavita.config.compose import Experiment
from lavita.files import sha256_of
from lavita.lock import FolderLock, Held
from lavita.results.attempts import LOCK, PROGRESS, attempts
from lavita.results.identity import changed_keys, code_hash, config_hash, shared_code_hash
from lavita.results.provenance import versions
from lavita.results.records import UNFINISHED, Record, read_record
from lavita.suite.artifacts import GroupArtifacts

FINISHED, RESUME, BEGIN, LEAVE = "finished", "resume", "begin", "leave"


@dataclass(frozen=True)
class Decision:
    """action: FINISHED (nothing to do), RESUME (in folder), BEGIN (a new attempt) or LEAVE (it failed as it is, in
    folder); why: for the plan that is printed, and the record.
    """

    action: str
    folder: Path | None
    why: str


def made_from(experiment: Experiment, shared: GroupArtifacts) -> dict[str, str]:
    """Hashes of everything that decides a run's numbers, by what each is of."""
    values = shared.values
    external = [f"{key} {shared.external[path]}" for key, path in experiment.external_weights.items()]
    return {
        "configuration": config_hash(experiment),
        "code": code_hash(experiment),
        "libraries": versions(),
        "data": shared.group.source.catalogue.fingerprint,
        "codec": values.codec_hash,
        "feature network": values.extractor_hash,
        "protocol": values.protocol_hash,
        "external weights": "; ".join(external),
    }


def identity(parts: Mapping[str, str]) -> str:
    """One hash over all of them: two attempts of one identity give the same numbers."""
    return hashlib.sha256("\n".join(parts.values()).encode()).hexdigest()[:16]


def decide(runs_folder: Path, experiment: Experiment, parts: Mapping[str, str], fresh: bool, retry: bool) -> Decision:
    """What becomes of a run whose numbers would be made from `parts`.

    fresh: begin anew whatever is there. retry: run again what failed as it is: resumed where a process ended
    unexpectedly, from the start where training itself ended it (diverged, over budget). Raises ValueError for a broken
    record.
    """
    tries = [(folder, record) for folder in attempts(runs_folder, experiment.cell) if (record := read_record(folder))]
    if not tries:
        return Decision(BEGIN, None, "")
    if fresh:
        return Decision(BEGIN, None, "from the start, as asked (--fresh)")
    same = [(folder, record) for folder, record in tries if record.identity == identity(parts)]
    for folder, record in reversed(same):
        if record.status == "ok":
            return Decision(
                FINISHED, folder, "finished before with the same code, configuration, data, weights and protocol"
            )
    if not same:
        return Decision(BEGIN, None, f"run again: {difference(experiment, parts, tries[-1][1])}")
    folder, record = same[-1]
    status = record.status
    if (folder / PROGRESS).is_dir():
        refuse_worked_on(folder, record)
    if status in UNFINISHED:
        return Decision(RESUME, folder, "" if status == "queued" else f"resumes ({status}{last_seen(record)})")
    said = f"{status} before: {record.reason}"
    if not retry:
        return Decision(LEAVE, folder, f"{said}; --retry-failed runs it again")
    if status == "failed":
        return Decision(RESUME, folder, f"resumes ({said})")
    return Decision(BEGIN, None, f"from the start ({said})")


def samples_made_from(clips: Path, shared: GroupArtifacts) -> dict[str, str]:
    """Hashes of what decides the scores of a folder of external samples; its files by their contents."""
    lines = [f"{path.name} {sha256_of(path)}" for path in sorted(clips.iterdir()) if path.is_file()]
    values = shared.values
    return {
        "clips": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "code": shared_code_hash(),
        "libraries": versions(),
        "data": shared.group.source.catalogue.fingerprint,
        "feature network": values.extractor_hash,
        "protocol": values.protocol_hash,
    }


def samples_scored(runs_folder: Path, name: str, parts: Mapping[str, str]) -> bool:
    """Whether the newest attempt at such a row completed and was made from the same."""
    record = next((one for path in reversed(attempts(runs_folder, name)) if (one := read_record(path))), None)
    return record is not None and record.status == "ok" and record.made_from == dict(parts)


def refuse_worked_on(folder: Path, record: Record) -> None:
    """Raise Held where a process still works on an attempt, started by a run that is gone."""
    try:
        with FolderLock(folder / PROGRESS / LOCK, "run.py"):
            pass
    except Held as error:
        job = record.sessions[-1].job if record.sessions else ""
        raise Held(f"{error}" + (f"; it is Slurm job {job}, which `scancel {job}` ends" if job else "")) from None


def last_seen(record: Record) -> str:
    """Where the last process at an attempt was, as far as its record knows."""
    last = record.sessions[-1] if record.sessions else None
    return f" at {last.stage} {last.done:g}" if last and last.stage else ""


def difference(experiment: Experiment, parts: Mapping[str, str], record: Record) -> str:
    """Which of the parts are others than in a record, the configuration key by key."""
    before = record.made_from
    changed = [name for name, value in parts.items() if before.get(name) != value]
    if not before:
        return "the record does not say what it was made from"
    said = []
    for name in changed:
        keys = changed_keys(experiment, record.config) if name == "configuration" else []
        said.append(f"{name} ({', '.join(keys)})" if keys else name)
    return f"{', '.join(said)} changed since {record.row.started_at or 'then'}"
