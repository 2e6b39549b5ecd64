"""Starts processes, keeps everything each prints in a log, and ends them: asked first, killed where one is hung."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lavita.config.registry import import_folder
from lavita.executors.heartbeat import Event, Result, read_event, read_heartbeat
from lavita.files import naming_file

# Errors of the disk, not of the program: once they are mended, the same command resumes.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}


def is_disk_error(error: BaseException) -> bool:
    """Whether an error is one of DISK_ERRORS."""
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def disk_error_text(error: OSError, folder: str = "") -> str:
    """One line with the error's file where that is known, else the folder that was written to."""
    text = error.strerror or str(error)
    where = error.filename or folder
    return f"{text}: {where}" if where else text


PARENT = "LAVITA_PARENT"  # a variable: the process id of the one that started this one
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """End this process when its parent ends, however that ends; leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(os.environ.get(PARENT, "0"))
    if parent and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was told
            os._exit(1)


# Threads that wait without spinning don't take the core from those that work, and memory that is kept instead of handed
# back is not zeroed by the kernel again at every step: a fifth to a half of a training step's time on a CPU.
STEADY_CPU = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


# What launchers tell a process that trains with others. A job's shell may have them of something else.
RANK_VARIABLES = frozenset(
    {
        "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
        "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    }
)  # fmt: skip


def environment_of_processes(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, what makes a CPU steady, and `more`, which wins.

    Without the variables of a rank: only a process that is started as one has them, by `more`.
    """
    environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    search = [part for part in (import_folder(), environment.get("PYTHONPATH", "")) if part]
    if search:
        environment["PYTHONPATH"] = os.pathsep.join(search)
    environment.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name, value in STEADY_CPU.items():
        environment.setdefault(name, value)
    return environment | {PARENT: str(os.getpid())} | dict(more)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal), the last Result that it sent, if any, and why it was
    ended as hung, or ""."""

    code: int
    result: Result | None
    hung: str = ""

    @property
    def status(self) -> str:
        """As a record has it."""
        if self.hung or self.result is None or (self.code != 0 and self.result.status == "ok"):
            return "failed"
        return self.result.status

    @property
    def reason(self) -> str:
        """One line for the record: what the process said of its end, or how it was ended."""
        if self.hung:
            return self.hung
        if self.result and self.result.reason:
            return self.result.reason
        if self.code < 0:
            return f"the process was ended by signal {-self.code}" + (" (out of memory?)" if self.code == -9 else "")
        return f"the process ended with exit code {self.code} and no message; see its log"


class Interrupted(Exception):
    """The run was interrupted while a process ran; the process has been ended."""


GRACE_SECONDS = 60.0  # for a process to end its step and save its state, once asked
HANG_SECONDS = 3600.0


class Launcher:
    """Runs processes, from several threads where wanted, and can end them all.

    hang_timeout: seconds without a heartbeat (an event, or a new beat) after which a process is killed as hung.
    """

    def __init__(self, hang_timeout: float = HANG_SECONDS) -> None:
        self.hang_timeout = hang_timeout
        self.running: set[subprocess.Popen] = set()
        self.stopping = False
        self.lock = threading.Lock()

    def run(
        self,
        module: str,
        arguments: list[str],
        log: Path,
        show: Callable[[Event], None],
        environment: Mapping[str, str],
        heartbeat: Path | None = None,
    ) -> Ended:
        """Run `python -m module arguments`; events go to show, all output is added to log.

        environment: variables on top of this process's own. heartbeat: the file of the process's heartbeat.
        Raises Interrupted once `stop` was called.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with naming_file(log), open(log, "a", encoding="utf-8") as file:  # closing it may fail as well
            process = self.start([sys.executable, "-m", module, *arguments], file, environment)
            watchdog = Watchdog(process, heartbeat, self.hang_timeout)
            try:
                result = follow(process, file, show, watchdog)
                code = process.wait()
            except BaseException:
                end([process], grace=0)
                raise
            finally:
                watchdog.stop()
                end_group(process)
                with self.lock:
                    self.running.discard(process)
        if self.stopping:
            raise Interrupted
        return Ended(code, result, watchdog.verdict)

    def start(self, command: list[str], file: TextIO, environment: Mapping[str, str]) -> subprocess.Popen:
        """A process that `stop` will end."""
        with self.lock:
            if self.stopping:
                raise Interrupted
            with without_warnings():
                process = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    text=True,
                    env=environment_of_processes(environment),
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # a Ctrl-C of the terminal is for the run alone, which then asks its processes
                )
            self.running.add(process)
        return process

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Ask every process to end, and kill those that have not within `grace` seconds; each `run` then raises
        Interrupted. A second call with less grace shortens the first.
        """
        with self.lock:
            self.stopping = True
            running = list(self.running)
        end(running, grace)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Inside, processes are started that SIGUSR2 never reaches: Slurm warns every process of a job by it, before its
    limit or a preemption, and it would end one that is only beginning. This process hears it afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


LOOK_SECONDS = 2.0  # between two looks at the heartbeat


class Watchdog:
    """Looks at a process's heartbeat from a thread of its own, and kills the process where it is hung."""

    def __init__(self, process: subprocess.Popen, heartbeat: Path | None, hang_timeout: float) -> None:
        self.process, self.heartbeat, self.hang_timeout = process, heartbeat, hang_timeout
        self.verdict = ""
        self.last_heard = time.monotonic()
        self.ended = threading.Event()
        threading.Thread(target=self.look, daemon=True).start()

    def hear(self) -> None:
        """The process has sent an event."""
        self.last_heard = time.monotonic()

    def look(self) -> None:
        """Until the process ends or is hung."""
        last = None
        while not self.ended.wait(min(LOOK_SECONDS, self.hang_timeout / 4)):
            beat = None if self.heartbeat is None else read_heartbeat(self.heartbeat)
            if beat != last:
                last = beat
                self.hear()
            if time.monotonic() - self.last_heard > self.hang_timeout:
                where = f" at {last.stage} {last.done:g}" if last else ""
                minutes = self.hang_timeout / 60
                self.verdict = f"no heartbeat for {minutes:g} minutes{where}: ended as hung (--hang-timeout)"
                self.process.kill()
                return

    def stop(self) -> None:
        self.ended.set()


def follow(process: subprocess.Popen, file: TextIO, show: Callable[[Event], None], watchdog: Watchdog) -> Result | None:
    """Copy a process's output to file and its events to show until it ends; returns the last Result."""
    result = None
    for line in process.stdout:
        event = read_event(line)
        file.write(line)
        file.flush()
        if event is None:
            continue
        watchdog.hear()
        if isinstance(event, Result):
            result = event
        show(event)
    return result


def end(processes: list[subprocess.Popen], grace: float) -> None:
    """Ask processes to end, and kill those that do not within `grace` seconds."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace
    for process in processes:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_group(process: subprocess.Popen) -> None:
    """Kill what a process that has ended left behind of processes of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nothing is left, or (as macOS says it) only what has ended and was not waited for
