"""Starts processes and keeps everything each prints in a log; ends them, asking first. No torch here."""

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

from lavita.config.registry import PACKAGE
from lavita.executors.heartbeat import parse, read_heartbeat
from lavita.files import naming_file

# Mended, the same command goes on; nothing has to be asked for.
OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}


PARENT = "LAVITA_PARENT"  # a variable: the process id of the one that started this one
PR_SET_PDEATHSIG = 1


def begin() -> None:
    """End this process when its parent ends, however that ends; leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(os.environ.get(PARENT, "0"))
    if parent and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was told
            os._exit(1)


def is_of_the_machine(error: BaseException) -> bool:
    """Whether an error is one of them."""
    return isinstance(error, OSError) and error.errno in OF_THE_MACHINE


def told(error: OSError, folder: str = "") -> str:
    """The error in words, with the file where it is known, else the folder that was written to."""
    said = error.strerror or str(error)
    where = error.filename or folder
    return f"{said}: {where}" if where else said


def accelerators() -> list[str]:
    """Names of the GPUs that a process may use, as CUDA_VISIBLE_DEVICES spells them; empty without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name for name in found if name.isdigit()), key=int)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(threads: int, devices: int = 1) -> int:
    """Cells at once: as many as have `devices` accelerators each, else as many as have `threads` cores a device."""
    return max(1, len(accelerators()) // devices or usable_cores() // (threads * devices))


def environment_of(worker: int, threads: int, devices: int = 1) -> dict[str, str]:
    """Variables of the process of a cell: its number of threads, and its accelerators where there are some.

    Raises ValueError where there are some, but fewer than the cell wants.
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


# Threads that wait without spinning don't take the core from those that work, and memory that is kept instead of handed
# back is not zeroed by the kernel again at every step: a fifth to a half of a training step's time on a CPU.
STEADY_CPU = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
GRACE_SECONDS = 60.0  # for a process to end its step and keep where it is, once asked
LOOK_SECONDS = 2.0  # between two looks for a sign of life


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal), the last "result" event it sent, if any, and whether
    it was ended because it gave no sign of life."""

    code: int
    result: dict | None
    hung: str = ""

    @property
    def status(self) -> str:
        """As a record has it."""
        if self.code != 0 and self.status_said == "ok":
            return "failed"
        return "failed" if self.hung else self.status_said

    @property
    def status_said(self) -> str:
        return str(self.result["status"]) if self.result else "failed"

    @property
    def reason(self) -> str:
        """One line for the record: what the process said of its end, or how it was ended."""
        if self.hung:
            return self.hung
        if self.result and self.result.get("reason"):
            return str(self.result["reason"])
        if self.code < 0:
            return f"the process was ended by signal {-self.code}" + (" (out of memory?)" if self.code == -9 else "")
        return f"the process ended with exit code {self.code} and no word; see its log"


class Interrupted(Exception):
    """The run was interrupted while a process ran; the process has been ended."""


class Launcher:
    """Runs processes, from several threads where wanted, and can end them all.

    patience: seconds without a sign of life (an event, a beat of its pulse) after which a process counts as hung and is
    killed.
    """

    def __init__(self, patience: float = 3600.0) -> None:
        self.patience = patience
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
        pulse: Path | None = None,
    ) -> Ended:
        """Run `python -m module arguments`; events go to show, all output is added to log.

        environment: variables on top of this process's own. pulse: the file in which the process says that it lives.
        Raises Interrupted once `stop` was called.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with naming_file(log), open(log, "a", encoding="utf-8") as file:  # closing it may fail as well
            process = self.start([sys.executable, "-m", module, *arguments], file, environment)
            watch = Watch(process, pulse, self.patience)
            try:
                result = follow(process, file, show, watch)
                code = process.wait()
            except BaseException:
                end([process], grace=0)
                raise
            finally:
                watch.stop()
                end_group(process)
                with self.lock:
                    self.running.discard(process)
        if self.stopping:
            raise Interrupted
        return Ended(code, result, watch.verdict)

    def start(self, command: list[str], file, environment: Mapping[str, str]) -> subprocess.Popen:
        """A process that `stop` will end."""
        with self.lock:
            if self.stopping:
                raise Interrupted
            with deaf_to_warnings():
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
def deaf_to_warnings() -> Iterator[None]:
    """Inside, processes are started that SIGUSR2 never reaches: Slurm warns every process of a job by it, before its
    limit or a preemption, and it would end one that is only beginning. This process hears it afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Watch:
    """Looks from a thread of its own whether a process goes on, and kills it where it does not."""

    def __init__(self, process: subprocess.Popen, pulse: Path | None, patience: float) -> None:
        self.process, self.pulse, self.patience = process, pulse, patience
        self.verdict = ""
        self.last_sign = time.monotonic()
        self.ended = threading.Event()
        threading.Thread(target=self.look, daemon=True).start()

    def sign(self) -> None:
        """The process has said something."""
        self.last_sign = time.monotonic()

    def look(self) -> None:
        """Until the process ends or is hung."""
        last = None
        while not self.ended.wait(min(LOOK_SECONDS, self.patience / 4)):
            state = None if self.pulse is None else read_heartbeat(self.pulse)
            if state != last:
                last = state
                self.sign()
            silent = time.monotonic() - self.last_sign
            if silent > self.patience:
                where = f" at {last['stage']} {last['done']:g}" if last else ""
                self.verdict = f"no sign of life for {silent:.0f} s{where}: ended as hung (--patience)"
                self.process.kill()
                return

    def stop(self) -> None:
        self.ended.set()


def environment_of_processes(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, what makes a CPU steady, and `more`, which wins."""
    environment = dict(os.environ)
    search = [str(PACKAGE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(part for part in search if part)
    environment.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name, value in STEADY_CPU.items():
        environment.setdefault(name, value)
    return environment | {PARENT: str(os.getpid())} | dict(more)


def follow(process: subprocess.Popen, file, show: Callable[[dict], None], watch: Watch) -> dict | None:
    """Copy a process's output to file and its events to show until it ends; returns its last "result" event."""
    result = None
    for line in process.stdout:
        event = parse(line)
        file.write(line)
        file.flush()
        if event is None:
            continue
        watch.sign()
        if event["kind"] == "result":
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
        pass
