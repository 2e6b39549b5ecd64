"""What runs in a Slurm job: one task on its node, kept and requeued where the job must go. No torch here."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any

from lavita.executors.process import Ended, Interrupted, Launcher, threads_of
from lavita.executors.task import Task, supervise
from lavita.results.records import AttemptRecord, read_record

FIRST_PORT, PORTS = 20000, 20000
LISTEN_SECONDS = 0.5
FOLLOW_SECONDS = 60.0  # for the first process to notice that another one has ended, and to say why


class SlurmTask:
    """submitit's callable, stored as plain data.

    patience: seconds without a sign of life after which the process counts as hung. grace: seconds that it has to keep
    where it is.
    """

    def __init__(self, task: Task, patience: float, grace: float) -> None:
        self.task, self.patience, self.grace = task, patience, grace
        self.launcher = Launcher(patience)
        # The main thread must stay free for signals, whose handlers wait for the process.
        self.thread = threading.Thread(target=self.work)
        self.ended: Ended | None = None
        self.error: OSError | None = None

    def __call__(self) -> None:
        """See the task through on this node; its end is in its record and log. Raises OSError where these can't be
        written, RuntimeError where a process other than the job's first one fails unnoticed: Slurm then ends the job.
        """
        record = read_record(self.task.folder, AttemptRecord)
        if record is not None and record.status == "ok":
            return  # a node failed after the task was done, and Slurm started the job again
        signal.signal(signal.SIGTERM, lambda *_: self.begin_stop())
        self.thread.start()
        self.wait()
        if self.error is not None:
            raise self.error
        rank = rank_of(os.environ)
        # Slurm's SIGTERM reaches the process too, which may end of it before this one has heard its own.
        if self.ended is None or self.ended.status == "interrupted":
            requeue_if_preempted(rank)
        elif rank > 0 and self.ended.status != "ok":
            self.leave_it_to_the_first()

    def work(self) -> None:
        """The task from start to end, in a thread of its own: a process dies with the thread that started it."""
        environment = threads_of(self.task.threads) | rank_environment(os.environ)
        try:
            self.ended = supervise(self.launcher, self.task, lambda _: None, environment, rank_of(os.environ))
        except Interrupted:
            pass
        except OSError as error:
            self.error = error

    def wait(self) -> None:
        """Until the task has ended. The kernel may give a signal to the other thread: without a limit this one would
        sleep on, and its handler with it."""
        while self.thread.is_alive():
            self.thread.join(LISTEN_SECONDS)

    def leave_it_to_the_first(self) -> None:
        """Wait until the first process has written how the task ended; raises RuntimeError where it does not notice."""
        deadline = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < deadline and not self.launcher.stopping:
            record = read_record(self.task.folder, AttemptRecord)
            if record is not None and record.status not in ("queued", "running"):
                return
            time.sleep(LISTEN_SECONDS)
        raise RuntimeError(self.ended.reason)

    def begin_stop(self) -> None:
        """Ask the process to end, from another thread: a handler must not wait for a lock."""
        threading.Thread(target=self.launcher.stop, args=(self.grace,)).start()

    def checkpoint(self) -> Any:
        """Called by submitit on its signal (before the time limit, when preempted): end the process where it can go
        on, and give what the requeued job calls.
        """
        from submitit.helpers import DelayedSubmission

        self.begin_stop()
        self.wait()
        return DelayedSubmission(SlurmTask(self.task, self.patience, self.grace))

    def __getstate__(self) -> dict[str, Any]:
        return {key: self.__dict__[key] for key in ("task", "patience", "grace")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


def rank_of(environ: Mapping[str, str]) -> int:
    """This process's number in its job; 0 is the one that writes."""
    return int(environ.get("SLURM_PROCID", "0"))


def rank_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """torch's variables of one of several processes that train together; empty for one alone."""
    processes = int(environ.get("SLURM_NTASKS", "1"))
    if processes == 1:
        return {}
    nodes = int(environ.get("SLURM_JOB_NUM_NODES", "1"))
    port = FIRST_PORT + int(environ["SLURM_JOB_ID"]) % PORTS  # jobs that share a node must not meet
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": str(processes),
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(processes // nodes),
        "MASTER_ADDR": environ.get("MASTER_ADDR") or first_host(),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(port),
    }


def first_host() -> str:
    """The first of this job's nodes."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    return SlurmJobEnvironment().hostnames[0]


def requeue_if_preempted(rank: int) -> None:
    """Requeue the job where Slurm asked it to end because it preempts it: not all clusters send submitit's signal then.

    Only the first process does; where Slurm requeues the job by itself, asking once more changes nothing.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if rank == 0 and job and preempted(job):
        subprocess.run(["scontrol", "requeue", job], check=False, timeout=60)


def preempted(job: str) -> bool:
    """Whether Slurm says that it preempts a job."""
    try:
        done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    fields = dict(field.partition("=")[::2] for field in done.stdout.split())
    return fields.get("PreemptTime", "None") != "None"
