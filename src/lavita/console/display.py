"""Progress of a run on standard output: one live display on a terminal, plain lines elsewhere. Safe from several
threads.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lavita.console.events import Note, Plan, Progress
from lavita.console.forecast import Forecast, time_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

QUIET_SECONDS = 10.0  # between two lines of one task, where there is no terminal
LIVE_ROWS = 16  # tasks of the live display; of more, only those that run
REFRESHES = 4  # of the live display, a second
TITLE_LETTERS, BAR_LETTERS = 30, 12


class Display:
    """Lines and the live display of a run; every task that runs (the shared artifacts, a run) has a Channel of its own.

    clock: gives seconds; console: where a terminal's display is drawn, None: on standard output, if that is a terminal.
    """

    def __init__(
        self,
        quiet_seconds: float = QUIET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self.is_terminal = console is not None or sys.stdout.isatty()
        self.quiet_seconds, self.clock, self.console = quiet_seconds, clock, console
        self.forecast = Forecast(clock)
        self.lock = threading.RLock()  # of the forecast; never held while something is drawn, since drawing needs it
        self.printing = threading.Lock()
        self.live = None

    def expect(self, titles: Sequence[str], at_once: int) -> None:
        """These tasks will have channels, so many at once."""
        with self.lock:
            self.forecast.expect(titles, at_once)

    def channel(self, title: str) -> Channel:
        """Where a task that starts now tells how far it is."""
        with self.lock:
            self.forecast.begin(title)
        if not self.is_terminal:
            self.line(title)
        with self.printing:
            if self.is_terminal and self.live is None:
                self.live = self.begin_live()
        return Channel(self, title)

    def begin_live(self):
        """The live display, drawn anew some times a second."""
        from rich.console import Console  # only a terminal needs it
        from rich.live import Live

        console = self.console or Console()
        live = Live(get_renderable=self.drawn, console=console, refresh_per_second=REFRESHES, transient=True)
        live.start()
        return live

    def end(self) -> None:
        """Take the live display away."""
        with self.printing:
            if self.live is not None:
                self.live.stop()
                self.live = None

    def line(self, text: str) -> None:
        """A plain line, above the live display where there is one."""
        with self.printing:
            if self.live is not None:
                self.live.console.print(text, highlight=False, markup=False, soft_wrap=True)
            else:
                print(text, flush=True)

    def left_in_all(self) -> str:
        """Time left of all tasks, "" where it is not known, or where there is but one."""
        with self.lock:
            left = self.forecast.left_in_all() if len(self.forecast.titles) > 1 else None
        return "" if left is None else f"{time_text(left)} left"

    def drawn(self) -> Table:
        """The live display: a row a task, and below them how far all are."""
        from rich.table import Table
        from rich.text import Text

        with self.lock:
            found = self.forecast
            rows = found.titles if len(found.titles) <= LIVE_ROWS else found.running
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(style="bold", no_wrap=True, overflow="ellipsis", max_width=TITLE_LETTERS)
            for _ in range(5):
                table.add_column(no_wrap=True, overflow="ellipsis")
            for title in rows:
                table.add_row(Text(title), *self.cells(title))
            if len(found.titles) > 1:
                over = len(found.titles) - len(found.running) - len(found.waiting)
                said = f"{over} of {len(found.titles)} done, {len(found.running)} running"
                table.add_row(Text("all"), Text(said), "", "", "", Text(self.left_in_all()))
        return table

    def cells(self, title: str) -> tuple:
        """Stage, bar, step, loss and time left of a task."""
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        task = self.forecast.tasks.get(title)
        if task is None:
            return Text("waiting", style="dim"), "", "", "", ""
        if task.ended is not None:
            took = f"took {time_text(task.ended - task.began)}"
            return Text("done", style="dim"), "", "", "", Text(took, style="dim")
        event = task.latest
        if event is None:
            return Text("starts"), "", "", "", ""
        bar = ProgressBar(total=max(event.total, 1e-9), completed=event.done, width=BAR_LETTERS)
        return Text(event.stage), bar, Text(counts(event)), Text(loss(event)), Text(self.left(title))

    def left(self, title: str) -> str:
        """Time left of a task, "" where it is not known."""
        with self.lock:
            left = self.forecast.left(title)
            whole = bool(self.forecast.tasks[title].plan)
        return "" if left is None else f"{'' if whole else 'stage '}{time_text(left)} left"


def counts(event: Progress) -> str:
    """How far a stage is, in steps where it has some."""
    if event.step is not None and event.steps is not None:
        return f"step {event.step}/{event.steps}"
    return f"{event.done:.10g}/{event.total:.10g}"


def loss(event: Progress) -> str:
    return "" if event.loss is None else f"loss {event.loss:.4g}"


class Channel:
    """Shows the events of one process; `prefix` marks the lines of each of several processes.

    Without a terminal a task has a line when it starts, one when it ends, and between them one every quiet_seconds at
    most, which holds all that was said since the last.
    """

    def __init__(self, display: Display, title: str) -> None:
        self.display, self.title = display, title
        self.prefix = ""
        self.said_at = display.clock()
        self.notes: list[str] = []

    def show(self, event: object) -> None:
        """Take in a Progress, a Plan or a Note; no other event of a process is shown."""
        display = self.display
        if isinstance(event, Progress | Plan):
            with display.lock:
                display.forecast.hear(self.title, event)
        elif isinstance(event, Note) and display.is_terminal:
            display.line(f"  {self.prefix}{event.text}")
        elif isinstance(event, Note):
            self.notes.append(event.text)
        else:
            return
        if not display.is_terminal and display.clock() - self.said_at >= display.quiet_seconds:
            self.say()

    def say(self) -> None:
        """One line: what was noted since the last, and how far the task is."""
        event = self.display.forecast.tasks[self.title].latest
        parts = [*self.notes, *([self.status(event)] if event is not None else [])]
        if parts:
            self.display.line(f"  {self.prefix}{'; '.join(parts)}")
            self.notes, self.said_at = [], self.display.clock()

    def status(self, event: Progress) -> str:
        """How far the task is, in words."""
        left = self.display.left(self.title)
        every = self.display.left_in_all()
        parts = [f"{event.stage} {counts(event)}", loss(event), left, f"all runs {every}" if every else ""]
        return ", ".join(filter(None, parts))

    def close(self, said: str = "", waits: bool = False) -> None:
        """The task is over, or (waits) will begin again. said: its last line."""
        with self.display.lock:
            if waits:
                self.display.forecast.wait_again(self.title)
            else:
                self.display.forecast.end(self.title)
        notes, self.notes = "; ".join(self.notes), []
        if said:
            self.display.line(f"{said} ({notes})" if notes else said)
        elif notes:
            self.display.line(f"  {self.prefix}{notes}")
