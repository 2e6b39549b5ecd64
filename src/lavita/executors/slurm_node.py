"""What runs in a Slurm job: one task on its node, requeued by submitit where the job must go. No torch here."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from lavita.executors.base import Task, supervise, threads_of
from lavita.executors.process import Ended, Interrupted, Launcher
from lavita.executors.slurm_queue import is_preempted, run_command
from lavita.results.records import AttemptRecord, read_record

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

LISTEN_SECONDS = 0.5
FOLLOW_SECONDS = 60.0  # for the first process to notice that another one has ended, and to say why


class SlurmTask:
    """submitit's callable, stored as plain data.

    hang_timeout: seconds without a heartbeat after which the process is hung. grace: seconds that it has to save its
    state.
    """

    def __init__(self, task: Task, hang_timeout: float, grace: float) -> None:
        self.task, self.hang_timeout, self.grace = task, hang_timeout, grace
        self.launcher = Launcher(hang_timeout)
        # The main thread must stay free for signals, whose handlers wait for the process.
        self.thread = threading.Thread(target=self.work)
        self.ended: Ended | None = None
        self.error: Exception | None = None

    def __reduce__(self) -> tuple:
        return SlurmTask, (self.task, self.hang_timeout, self.grace)

    def __call__(self) -> None:
        """Run the task on this node; its end is in its record and log. Raises what went wrong on the way, such as
        OSError where these can't be written, and RuntimeError where a process other than the job's first one fails
        unnoticed: Slurm then ends the job.
        """
        record = read_record(self.task.folder, AttemptRecord)
        if record is not None and record.status == "ok":
            return  # a node failed after the task was done, and Slurm started the job again
        # submitit ignores SIGTERM, which is all that some clusters send before they preempt a job.
        signal.signal(signal.SIGTERM, lambda *_: self.begin_stop())
        self.thread.start()
        self.wait()
        if self.error is not None:
            raise self.error
        # Slurm's SIGTERM reaches the process too, which may end of it before this one has heard its own.
        if self.ended is None or self.ended.status == "interrupted":
            requeue_if_preempted()
        elif job_rank() > 0 and self.ended.status != "ok":
            self.leave_it_to_the_first()

    def work(self) -> None:
        """The task from start to end, in a thread of its own: a process dies with the thread that started it."""
        environment = threads_of(self.task.threads) | rank_environment()
        try:
            self.ended = supervise(self.launcher, self.task, lambda _: None, environment, job_rank())
        except Interrupted:
            pass  # it was asked to stop: `ended` stays None, which __call__ looks at
        except Exception as error:  # raised in the main thread: here it would end the thread alone, and the job as done
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

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit on its signal (before the time limit, when preempted): end the process where it can
        resume, and give what the requeued job calls.
        """
        from submitit.helpers import DelayedSubmission

        self.begin_stop()
        self.wait()
        return DelayedSubmission(self)


def job_rank() -> int:
    """This process's number in its job; 0 is the one that writes."""
    return int(os.environ.get("SLURM_PROCID", "0"))


def rank_environment() -> dict[str, str]:
    """torch's variables of one of several processes that train together; empty for one alone.

    MASTER_ADDR and MASTER_PORT of the job's own environment win.
    """
    if int(os.environ.get("SLURM_NTASKS", "1")) == 1:
        return {}
    from submitit.helpers import TorchDistributedEnvironment

    found = TorchDistributedEnvironment()
    return {
        "RANK": str(found.rank),
        "WORLD_SIZE": str(found.world_size),
        "LOCAL_RANK": str(found.local_rank),
        "LOCAL_WORLD_SIZE": str(found.local_world_size),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or found.master_addr,
        "MASTER_PORT": str(found.master_port),
    }


def requeue_if_preempted() -> None:
    """Requeue the job where Slurm ends it because it preempts it: not all clusters send submitit's signal then.

    Only the first process does; where Slurm requeues the job by itself, asking once more changes nothing.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if job_rank() == 0 and job and is_preempted(job):
        run_command("scontrol", "requeue", job)
