"""Which executor a run uses for what takes long: this machine, or a Slurm cluster."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from lavita.config.compose import Experiment
from lavita.config.schema import ConfigError
from lavita.console import Display
from lavita.executors.process import Ended, Launcher, environment_of
from lavita.executors.slurm_queue import Queue, slurm_parameters
from lavita.executors.task import Task, supervise

Done = Callable[[Task, Ended], None]


class LocalExecutor:
    """workers: tasks at a time."""

    def __init__(self, workers: int, launcher: Launcher, display: Display) -> None:
        self.workers, self.launcher, self.display = workers, launcher, display

    def run(self, tasks: Sequence[Task], done: Done = lambda *_: None) -> list[Ended]:
        """How each task ended, in their order; done is told as each does.

        Raises Interrupted or KeyboardInterrupt once every process has ended; OSError of a folder that can't be written.
        """
        free: SimpleQueue[int] = SimpleQueue()
        for worker in range(self.workers):
            free.put(worker)

        def call(task: Task) -> Ended:
            worker = free.get()
            try:
                ended = self.see_through(task, worker)
            finally:
                free.put(worker)
            done(task, ended)
            return ended

        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(call, task) for task in tasks]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                self.stop()
                raise

    def see_through(self, task: Task, worker: int) -> Ended:
        """One task with its lines on the display."""
        channel = self.display.channel(task.title)
        channel.prefix = task.prefix if self.workers > 1 else ""
        try:
            return supervise(self.launcher, task, channel.show, environment_of(worker, task.threads, task.devices))
        finally:
            channel.close()

    def stop(self) -> None:
        """Ask all processes to end, and wait; a Ctrl-C meanwhile kills them."""
        if self.launcher.running:
            self.display.line("stopping: each process keeps where it is (Ctrl-C again kills them)")
        try:
            self.launcher.stop()
        except KeyboardInterrupt:
            self.launcher.stop(grace=0.0)


class Executor(Protocol):
    """Runs tasks, here or elsewhere."""

    def run(self, tasks: Sequence[Task], done: Callable[[Task, Ended], None] = ...) -> list[Ended]:
        """How each task ended, in their order; done is told as each does."""


@dataclass(frozen=True)
class Work:
    """folder: of the results; cache: of what is fitted once; executor: for what takes long; here: for what is short."""

    folder: Path
    cache: Path
    executor: Executor
    here: LocalExecutor
    display: Display


def shown(path: Path) -> str:
    """A path as short as can be: relative to the working directory where it lies inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


LOCAL, SLURM = "local", "slurm"  # values of --executor
FOLDER = "slurm"  # in the results folder
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")


def check_executor(name: str, asked: Sequence[str], cells: Sequence[Experiment]) -> None:
    """Raise ConfigError, before anything is done, where a run can't go by an executor."""
    if name == SLURM:
        slurm_parameters(asked)
        if importlib.util.find_spec("submitit") is None:
            raise ConfigError("--executor slurm: submitit is not installed: pip install -e '.[slurm]'")
        missing = [command for command in COMMANDS if shutil.which(command) is None]
        if missing:
            raise ConfigError(
                f"--executor slurm: no {missing[0]} on PATH; give the command on a login node of the cluster, or "
                "without --executor slurm to run here"
            )
        return
    nodes = max((cell.compute.nodes for cell in cells), default=1)
    if nodes > 1:
        raise ConfigError(f"compute.nodes: got {nodes}, wanted 1 without --executor slurm")


def refuse_running(folder: Path) -> None:
    """Raise ConfigError where Slurm jobs of an earlier run work on a results folder, or wait to."""
    Queue(folder / FOLDER).refuse_unfinished()


def executor_of(
    name: str, asked: Sequence[str], folder: Path, workers: int | None, here: LocalExecutor, display: Display
) -> Executor:
    """The executor of a run with its results in folder; here: this machine's. workers None: no cap."""
    if name == LOCAL:
        return here
    from lavita.executors.slurm import SlurmExecutor

    return SlurmExecutor(folder / FOLDER, workers, slurm_parameters(asked), here.launcher.patience, display)
