"""Progress of a run on standard output: rich bars on a terminal, plain lines elsewhere. Safe from several threads."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path


def invocation(command: str) -> str:
    """How another command is called, in the way this one was: from a checkout, or installed."""
    if Path(sys.argv[0]).parent.name == "benchmarks":
        return f"python benchmarks/{command}.py"
    return f"lavita {command}"


def this_command() -> str:
    """The command line that started this process, to be given again."""
    program = Path(sys.argv[0])
    if program.name in ("lavita", "lavita.exe") or program.parts[-2:] == ("lavita", "__main__.py"):
        return f"lavita {shlex.join(sys.argv[1:])}"
    return f"python {shlex.join(sys.argv)}"


@dataclass(frozen=True)
class Progress:
    """How far a stage is: done of total (clips, videos, MiB), and its loss where it has one."""

    stage: str
    done: float
    total: float
    loss: float | None = None


@dataclass(frozen=True)
class Note:
    """A line for the user."""

    text: str


class Display:
    """Lines and bars of a run; every task that runs (the shared artifacts, a run) has a Channel of its own."""

    def __init__(self, quiet_seconds: float = 10.0) -> None:
        self.is_terminal = sys.stdout.isatty()
        self.quiet_seconds = quiet_seconds
        self.lock = threading.Lock()
        self.bars = None

    def channel(self, title: str) -> Channel:
        """Where a task that starts now tells how far it is."""
        if not self.is_terminal:
            self.line(title)
        elif self.bars is None:
            self.bars = new_bars()
            self.bars.start()
        return Channel(self, title)

    def end(self) -> None:
        """Take the bars away."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None

    def line(self, text: str) -> None:
        """A plain line, above the bars where there are any."""
        with self.lock:
            if self.bars is not None:
                self.bars.console.print(text, highlight=False, markup=False)
            else:
                print(text, flush=True)


class Channel:
    """Shows the events of one process; `prefix` marks the lines of each of several processes."""

    def __init__(self, display: Display, title: str) -> None:
        self.display, self.title = display, title
        self.tasks: dict[str, int] = {}
        self.last_line = 0.0
        self.prefix = ""

    def show(self, event: object) -> None:
        """Draw a Progress or a Note; no other event of a process is shown."""
        if isinstance(event, Note):
            self.display.line(f"  {self.prefix}{event.text}")
        if not isinstance(event, Progress):
            return
        stage, done, total = event.stage, event.done, event.total
        note = "" if event.loss is None else f"loss {event.loss:.4g}"
        bars = self.display.bars
        if bars is not None:
            if stage not in self.tasks:
                self.tasks[stage] = bars.add_task(stage, total=total, title=self.title, note=note)
            bars.update(self.tasks[stage], completed=done, note=note)
        elif done >= total or time.monotonic() - self.last_line > self.display.quiet_seconds:
            self.last_line = time.monotonic()
            self.display.line(f"  {self.prefix}{stage} {done}/{total} {note}".rstrip())

    def close(self) -> None:
        """Take this task's bars away."""
        if self.display.bars is not None:
            for task in self.tasks.values():
                self.display.bars.remove_task(task)


def new_bars():
    """Bars with the task's title, the stage, how far it is, a note, and the time."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    title, stage, note = (
        TextColumn(text) for text in ("[bold]{task.fields[title]}", "{task.description}", "{task.fields[note]}")
    )
    return Progress(title, stage, BarColumn(), MofNCompleteColumn(), note, TimeElapsedColumn())
