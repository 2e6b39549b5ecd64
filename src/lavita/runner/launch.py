"""Starts one process a task, shows how far it is, and keeps everything it prints in a log. No torch here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lavita.registry import ROOT
from lavita.runner.events import parse

# Threads that wait without spinning don't take the core from those that work, and memory that is kept instead of handed
# back is not zeroed by the kernel again at every step: a fifth to a half of a training step's time on a CPU.
STEADY_CPU = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal) and the last "result" event it sent, if any."""

    code: int
    result: dict | None

    @property
    def reason(self) -> str:
        """One line for the record: what the process said of its end, or how it was ended."""
        if self.result and self.result.get("reason"):
            return str(self.result["reason"])
        if self.code < 0:
            return f"the process was ended by signal {-self.code}" + (" (out of memory?)" if self.code == -9 else "")
        return f"the process ended with exit code {self.code} and no word; see its log"


def run_process(module: str, arguments: list[str], log: Path, show: Callable[[dict], None]) -> Ended:
    """Run `python -m module arguments`; events go to show, all output to log. Ends the process on Ctrl-C."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    search = [str(ROOT / "src"), str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(part for part in search if part)
    environment.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name, value in STEADY_CPU.items():
        environment.setdefault(name, value)
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        result = None
        try:
            for line in process.stdout:
                event = parse(line)
                file.write(line)
                file.flush()
                if event is None:
                    continue
                if event["kind"] == "result":
                    result = event
                show(event)
            return Ended(process.wait(), result)
        except BaseException:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


class Display:
    """Progress of a run: rich bars on a terminal, plain lines elsewhere."""

    def __init__(self, quiet_seconds: float = 10.0) -> None:
        self.is_terminal = sys.stdout.isatty()
        self.quiet_seconds = quiet_seconds
        self.last_line = 0.0
        self.bars = None
        self.tasks: dict[str, int] = {}
        self.title = ""

    def start(self, title: str) -> None:
        """A new task (the shared parts, or a cell)."""
        self.end()
        self.title, self.tasks = title, {}
        if not self.is_terminal:
            self.line(title)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = "[bold]{task.fields[title]}", "{task.description}", BarColumn(), MofNCompleteColumn()
        parts = [TextColumn(part) if isinstance(part, str) else part for part in columns]
        self.bars = Progress(*parts, TextColumn("{task.fields[note]}"), TimeElapsedColumn())
        self.bars.start()

    def show(self, event: dict) -> None:
        """Draw one event of the running process."""
        if event["kind"] == "note":
            self.line(f"  {event['text']}")
        if event["kind"] != "progress":
            return
        stage, done, total = event["stage"], event["done"], event["total"]
        note = "" if event.get("loss") is None else f"loss {event['loss']:.4g}"
        if self.bars is not None:
            if stage not in self.tasks:
                self.tasks[stage] = self.bars.add_task(stage, total=total, title=self.title, note=note)
            self.bars.update(self.tasks[stage], completed=done, note=note)
        elif done >= total or time.monotonic() - self.last_line > self.quiet_seconds:
            self.last_line = time.monotonic()
            self.line(f"  {stage} {done}/{total} {note}".rstrip())

    def end(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None

    def line(self, text: str) -> None:
        """A plain line, above the bars where there are any."""
        if self.bars is not None:
            self.bars.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)
