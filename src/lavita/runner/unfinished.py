"""An attempt while it is worked on: what it keeps to go on from, whose it is, and who sat at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lavita.bench.ledger import read_record, write_record
from lavita.bench.lock import FolderLock
from lavita.bench.seal import LOCK, PROGRESS
from lavita.kept import Kept
from lavita.runner.events import emit
from lavita.runner.machine import is_of_the_machine, told
from lavita.runner.pulse import PULSE, start_pulse
from lavita.runner.sittings import begin_sitting, end_sitting
from lavita.train.budget import OverBudget
from lavita.train.guard import Diverged
from lavita.train.stop import Stopped

STATUS_OF = {Diverged: "diverged", OverBudget: "over_budget", Stopped: "interrupted"}


@contextmanager
def sitting(folder: Path) -> Iterator[Kept]:
    """Work on an attempt in this process: gives what it keeps to go on from. However the work ends, the record has it;
    what it kept is removed by `tidy` once the record says ok.
    """
    progress = folder / PROGRESS
    progress.mkdir(parents=True, exist_ok=True)
    with FolderLock(progress / LOCK, "the process of a cell"):
        yield from sat(folder, progress)


def sat(folder: Path, progress: Path) -> Iterator[Kept]:
    """A sitting of a process that has the attempt for itself."""
    for stray in progress.glob(".*.part"):  # of a process that was killed while it wrote
        stray.unlink()
    sittings = begin_sitting(read_record(folder), progress)
    pulse = start_pulse(progress / PULSE)
    write_record(folder, read_record(folder) | {"status": "running", "reason": "", "sittings": sittings})
    pulse.beat("start", 0)
    kept = Kept(progress)
    ended = "failed"
    try:
        yield kept
        ended = "ok"
    except BaseException as error:
        ended = status_of(error)
        raise
    finally:
        for name in kept.damaged:
            emit("note", text=f"{name}: damaged, made again")
        record = read_record(folder)
        write_record(folder, record | {"sittings": end_sitting(record["sittings"], progress, pulse, ended)})


def tidy(folder: Path) -> None:
    """Remove what an attempt kept to go on from: it is finished."""
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)


def status_of(error: BaseException) -> str:
    """The status of a cell that an exception ended."""
    if is_of_the_machine(error):
        return "interrupted"
    return next((name for kind, name in STATUS_OF.items() if isinstance(error, kind)), "failed")


def reason_of(error: BaseException) -> str:
    """One line for the record."""
    if isinstance(error, Stopped):
        return str(error)
    if is_of_the_machine(error):
        return told(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
