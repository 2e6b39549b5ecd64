"""The sessions of a run: each process that worked on it, from its first heartbeat to how it ended."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lavita.executors.heartbeat import HEARTBEAT, Beat, Heartbeat, Note, emit, read_heartbeat, start_heartbeat
from lavita.executors.process import disk_error_text, is_disk_error
from lavita.files import remove_parts
from lavita.lock import FolderLock
from lavita.results.attempts import LOCK, PROGRESS
from lavita.results.provenance import hardware, peak_bytes, versions
from lavita.results.records import Record, Session, read_record, write_record
from lavita.results.resume_store import ResumeStore
from lavita.training.budget import OverBudget
from lavita.training.callbacks import Diverged
from lavita.training.checkpoint import Stopped


def begin_session(record: Record, progress: Path) -> tuple[Session, ...]:
    """The sessions of a record, the last one closed by its last heartbeat, and a new one for this process."""
    before = record.sessions
    if before and before[-1].ended == "":
        before = (*before[:-1], closed(before[-1], read_heartbeat(progress / HEARTBEAT), "killed"))
    new = Session(
        host=platform.node(),
        process=os.getpid(),
        job=slurm_job(os.environ),
        hardware=hardware(),
        versions=versions(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return (*before, new)


def slurm_job(environ: Mapping[str, str]) -> str:
    """The id by which scancel knows this process's job; "" outside of Slurm."""
    if "SLURM_ARRAY_JOB_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ.get("SLURM_JOB_ID", "")


def end_session(sessions: tuple[Session, ...], progress: Path, heartbeat: Heartbeat, ended: str) -> tuple[Session, ...]:
    """The same with the last one closed; ended: ok, or the status with which it was."""
    now = {"seconds": heartbeat.seconds, "peak_bytes": peak_bytes()}
    return (*sessions[:-1], replace(closed(sessions[-1], read_heartbeat(progress / HEARTBEAT), ended), **now))


def closed(one: Session, last: Beat | None, ended: str) -> Session:
    """A session with how it ended, and the last heartbeat that is known of it."""
    if last is None:
        return replace(one, ended=ended)
    known = {"stage": last.stage, "done": last.done, "seconds": last.seconds, "peak_bytes": last.peak_bytes}
    return replace(one, **known, ended=ended)


def seconds_of(sessions: Sequence[Session]) -> float:
    """Seconds of all sessions, work that was lost with a kill and done again included."""
    return sum(one.seconds for one in sessions)


def stated_once(sessions: Sequence[Session], key: str) -> str:
    """What the sessions say under a key, each thing once."""
    return " then ".join(dict.fromkeys(str(getattr(one, key)) for one in sessions))


STATUS_OF = {Diverged: "diverged", OverBudget: "over_budget", Stopped: "interrupted"}


@contextmanager
def session(folder: Path) -> Iterator[ResumeStore]:
    """Work on an attempt in this process: gives the store that it resumes from. However the work ends, the record has
    it; the store is removed by `tidy` once the record says ok.
    """
    progress = folder / PROGRESS
    progress.mkdir(parents=True, exist_ok=True)
    with FolderLock(progress / LOCK, "the process of a run"):
        yield from only_session(folder, progress)


def only_session(folder: Path, progress: Path) -> Iterator[ResumeStore]:
    """The session of a process that has the attempt for itself."""
    remove_parts(folder)
    record = read_record(folder)
    sessions = begin_session(record, progress)
    heartbeat = start_heartbeat(progress / HEARTBEAT)
    write_record(folder, replace(record, status="running", reason="", sessions=sessions))
    heartbeat.beat("start", 0)
    store = ResumeStore(progress)
    ended = "failed"
    try:
        yield store
        ended = "ok"
    except BaseException as error:
        ended = status_of(error)
        raise
    finally:
        for name in store.damaged:
            emit(Note(f"{name}: damaged, recomputed"))
        record = read_record(folder)
        write_record(folder, replace(record, sessions=end_session(record.sessions, progress, heartbeat, ended)))


def tidy(folder: Path) -> None:
    """Remove what an attempt would resume from: it is finished."""
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)


def status_of(error: BaseException) -> str:
    """The status of a run that an exception ended."""
    if is_disk_error(error):
        return "interrupted"
    return next((name for kind, name in STATUS_OF.items() if isinstance(error, kind)), "failed")


def reason_of(error: BaseException, folder: str) -> str:
    """One line for the record of an attempt; folder: its own, where an error of the machine names no file."""
    if isinstance(error, Stopped):
        return str(error)
    if is_disk_error(error):
        return disk_error_text(error, folder)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
