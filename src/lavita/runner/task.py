"""One process of a run, seen through: its log, its record, its seal, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lavita.bench.ledger import read_record
from lavita.bench.seal import PROGRESS, seal
from lavita.runner.launch import Ended, Interrupted, Launcher
from lavita.runner.pulse import PULSE

LOG = "log.txt"
STOPPED = "stopped from outside; the same command goes on where it was"


@dataclass(frozen=True)
class Task:
    """`python -m module arguments`, which works in folder. title, prefix: of its lines; threads: of the process;
    devices: that it uses, a process each."""

    title: str
    prefix: str
    folder: Path
    module: str
    arguments: tuple[str, ...]
    threads: int
    devices: int = 1


def supervise(launcher: Launcher, task: Task, show: Callable[[dict], None], environment: Mapping[str, str]) -> Ended:
    """Run a task to its end; the record of its folder, where it has one, says how that was, and is sealed.

    Raises Interrupted where the launcher was stopped, OSError where the folder can't be written.
    """
    pulse = task.folder / PROGRESS / PULSE
    try:
        ended = launcher.run(task.module, list(task.arguments), task.folder / LOG, show, environment, pulse)
    except Interrupted:
        settle(task.folder, "interrupted", STOPPED)
        raise
    settle(task.folder, ended.status, ended.reason)
    return ended


def settle(folder: Path, status: str, reason: str) -> None:
    """Put the end of a process into the record of its folder, and seal it. A process that ended well has written its
    own."""
    record = read_record(folder)
    if record is None:
        return
    seal(folder, **({} if record["status"] == "ok" else {"status": status, "reason": reason}))
