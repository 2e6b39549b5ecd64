"""One process of a run, seen through: its log, its record, its seal, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lavita.executors.heartbeat import HEARTBEAT
from lavita.executors.process import Ended, Interrupted, Launcher
from lavita.results.digest import PROGRESS, finalize_record
from lavita.results.records import AttemptRecord, read_record

LOG = "log.txt"
STOPPED = "stopped from outside; the same command goes on where it was"


@dataclass(frozen=True)
class Task:
    """`python -m module arguments`, which works in folder. title, prefix: of its lines; threads: of a process; devices,
    nodes: processes a node that work on it together, and nodes.
    """

    title: str
    prefix: str
    folder: Path
    module: str
    arguments: tuple[str, ...]
    threads: int
    devices: int = 1
    nodes: int = 1


def supervise(
    launcher: Launcher, task: Task, show: Callable[[dict], None], environment: Mapping[str, str], rank: int = 0
) -> Ended:
    """Run a task to its end; the record of its folder, where it has one, says how that was, and is sealed.

    rank: of the process among those of the task; only the first one's end is the task's.
    Raises Interrupted where the launcher was stopped, OSError where the folder can't be written.
    """
    pulse = task.folder / PROGRESS / HEARTBEAT
    settled = settle if rank == 0 else lambda *_: None
    try:
        ended = launcher.run(task.module, list(task.arguments), log_of(task.folder, rank), show, environment, pulse)
    except Interrupted:
        settled(task.folder, "interrupted", STOPPED)
        raise
    settled(task.folder, ended.status, ended.reason)
    return ended


def log_of(folder: Path, rank: int) -> Path:
    """The log of a process of a task: those of ranks above 0 may grow when the folder is sealed, so they lie apart."""
    return folder / LOG if rank == 0 else folder / PROGRESS / f"log-{rank}.txt"


def settle(folder: Path, status: str, reason: str) -> None:
    """Put the end of a process into the record of its folder, and finalize it. A process that completed has written
    its own."""
    record = read_record(folder, AttemptRecord)
    if record is None:
        return
    finalize_record(folder, **({} if record.status == "ok" else {"status": status, "reason": reason}))
