"""A task (one process with its folder, log and record), what runs tasks, and the executor of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from lavita.console import Display
from lavita.data.ahead import usable_cores
from lavita.executors.heartbeat import HEARTBEAT, Event
from lavita.executors.process import Ended, Interrupted, Launcher
from lavita.results.attempts import PROGRESS, finalize_record
from lavita.results.records import AttemptRecord, read_record

LOG = "log.txt"
TASKS = "LAVITA_TASKS"  # a variable: tasks at a time on this machine, which share its cores
STOPPED = "stopped from outside; the same command resumes it"


@dataclass(frozen=True)
class Task:
    """`python -m module arguments`, which works in folder. title, prefix: of its lines on the display; threads: of a
    process; nodes, devices: how many nodes work on it together, and processes on each; every_device: of one process
    that may use all accelerators of its machine.
    """

    title: str
    prefix: str
    folder: Path
    module: str
    arguments: tuple[str, ...]
    threads: int
    devices: int = 1
    nodes: int = 1
    every_device: bool = False


def supervise(
    launcher: Launcher, task: Task, show: Callable[[Event], None], environment: Mapping[str, str], rank: int = 0
) -> Ended:
    """Run a task to its end, which the record of its folder, where it has one, then states.

    rank: of the process among those of the task; only the first one's end is the task's.
    Raises Interrupted where the launcher was stopped, OSError where the folder can't be written.
    """
    heartbeat = task.folder / PROGRESS / HEARTBEAT
    record = record_end if rank == 0 else lambda *_: None
    try:
        ended = launcher.run(task.module, list(task.arguments), log_of(task.folder, rank), show, environment, heartbeat)
    except Interrupted:
        record(task.folder, "interrupted", STOPPED)
        raise
    record(task.folder, ended.status, ended.reason)
    return ended


def log_of(folder: Path, rank: int) -> Path:
    """The log of a process of a task. Those of ranks above 0 may still grow when the files of the folder are hashed, so
    they lie in progress/, which is not."""
    return folder / LOG if rank == 0 else folder / PROGRESS / f"log-{rank}.txt"


def record_end(folder: Path, status: str, reason: str) -> None:
    """Complete the record of a folder whose process has ended, and hash its files. A process that completed has written
    its own status."""
    record = read_record(folder, AttemptRecord)
    if record is None:
        return
    finalize_record(folder, **({} if record.status == "ok" else {"status": status, "reason": reason}))


def accelerators() -> list[str]:
    """Names of the GPUs that a process may use, as CUDA_VISIBLE_DEVICES spells them; empty without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name for name in found if name.isdigit()), key=int)


def default_workers(threads: int, devices: int = 1) -> int:
    """Tasks at a time: as many as have `devices` accelerators each, else as many as have `threads` cores a device."""
    return max(1, len(accelerators()) // devices or usable_cores() // (threads * devices))


def environment_of(worker: int, threads: int, devices: int = 1) -> dict[str, str]:
    """Variables of a task's process: its number of threads, and its accelerators where there are some.

    Raises ValueError where there are some, but fewer than the task wants.
    """
    names = accelerators()
    if names and len(names) < devices:
        raise ValueError(f"compute.devices: {devices} wanted, but this machine has {len(names)} accelerators")
    own = [names[(worker * devices + number) % len(names)] for number in range(devices)] if names else []
    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(own)} if names else {}
    return threads_of(threads) | chosen


def threads_of(threads: int) -> dict[str, str]:
    """Variables that give a process its number of threads."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


Done = Callable[[Task, Ended], str | None]  # what the display says last of a task, if anything


class Executor(Protocol):
    """Runs tasks, here or elsewhere."""

    def run(self, tasks: Sequence[Task], done: Done = ...) -> list[Ended]:
        """How each task ended, in their order; done is called as each does."""


class LocalExecutor:
    """Runs tasks as processes of this machine. workers: tasks at a time."""

    def __init__(self, workers: int, launcher: Launcher, display: Display) -> None:
        self.workers, self.launcher, self.display = workers, launcher, display

    def run(self, tasks: Sequence[Task], done: Done = lambda *_: None) -> list[Ended]:
        """How each task ended, in their order; done is called as each does.

        Raises Interrupted or KeyboardInterrupt once every process has ended; OSError of a folder that can't be written.
        """
        free: SimpleQueue[int] = SimpleQueue()
        for worker in range(self.workers):
            free.put(worker)

        def call(task: Task) -> Ended:
            worker = free.get()
            try:
                return self.run_one(task, worker, done)
            finally:
                free.put(worker)

        self.display.expect([task.title for task in tasks], self.workers)
        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(call, task) for task in tasks]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                self.stop()
                raise

    def run_one(self, task: Task, worker: int, done: Done = lambda *_: None) -> Ended:
        """One task with its lines on the display; worker: the number by which it gets its accelerators."""
        said = None
        channel = self.display.channel(task.title)
        channel.prefix = task.prefix if self.workers > 1 else ""
        try:
            environment = environment_of(worker, task.threads, task.devices)
            if task.every_device:
                environment = threads_of(task.threads)
            environment |= {TASKS: str(self.workers)}
            ended = supervise(self.launcher, task, channel.show, environment)
            said = done(task, ended)
            return ended
        finally:
            channel.close(said or "")

    def stop(self) -> None:
        """Ask all processes to end, and wait; a Ctrl-C meanwhile kills them."""
        if self.launcher.running:
            self.display.line("stopping: each process saves its state (Ctrl-C again kills them)")
        try:
            self.launcher.stop()
        except KeyboardInterrupt:
            self.launcher.stop(grace=0.0)


@dataclass(frozen=True)
class Work:
    """folder: of the results; cache: of what is fitted once; executor: of long tasks; here: of short ones."""

    folder: Path
    cache: Path
    executor: Executor
    here: LocalExecutor
    display: Display


def shown(path: Path) -> str:
    """A path as short as can be: relative to the working directory where it lies inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
