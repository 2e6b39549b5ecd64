"""Starts one process a task, several at once, and keeps everything each prints in a log. No torch here."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
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


class Interrupted(Exception):
    """The run was interrupted while a process ran; the process has been ended."""


class Launcher:
    """Runs processes, from several threads where wanted, and can end them all."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen] = set()
        self.stopping = False
        self.lock = threading.Lock()

    def run(
        self,
        module: str,
        arguments: list[str],
        log: Path,
        show: Callable[[dict], None],
        environment: Mapping[str, str],
    ) -> Ended:
        """Run `python -m module arguments`; events go to show, all output to log.

        environment: variables on top of this process's own. Raises Interrupted once `stop` was called.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as file:
            process = self.start([sys.executable, "-m", module, *arguments], file, environment)
            try:
                result = follow(process, file, show)
                code = process.wait()
            except BaseException:
                end(process)
                raise
            finally:
                with self.lock:
                    self.running.discard(process)
        if self.stopping:
            raise Interrupted
        return Ended(code, result)

    def start(self, command: list[str], file, environment: Mapping[str, str]) -> subprocess.Popen:
        """A process that `stop` will end."""
        with self.lock:
            if self.stopping:
                raise Interrupted
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment_of_processes(environment),
                stdin=subprocess.DEVNULL,
            )
            self.running.add(process)
        return process

    def stop(self) -> None:
        """End every process; each `run` then raises Interrupted."""
        with self.lock:
            self.stopping = True
            running = list(self.running)
        for process in running:
            end(process)


def environment_of_processes(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, what makes a CPU steady, and `more`, which wins."""
    environment = dict(os.environ)
    search = [str(ROOT / "src"), str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(part for part in search if part)
    environment.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name, value in STEADY_CPU.items():
        environment.setdefault(name, value)
    return environment | dict(more)


def follow(process: subprocess.Popen, file, show: Callable[[dict], None]) -> dict | None:
    """Copy a process's output to file and its events to show until it ends; returns its last "result" event."""
    result = None
    for line in process.stdout:
        event = parse(line)
        file.write(line)
        file.flush()
        if event is None:
            continue
        if event["kind"] == "result":
            result = event
        show(event)
    return result


def end(process: subprocess.Popen) -> None:
    """Ask a process to end, and kill it where it does not within ten seconds."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
