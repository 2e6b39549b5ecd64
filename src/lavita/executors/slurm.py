"""Tasks as jobs of a Slurm cluster: an array submitted through submitit, requeued by it, and waited for here."""

from __future__ import annotations

import io
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavita.config.registry import import_folder
from lavita.config.schema import ConfigError
from lavita.console import Channel, Display
from lavita.executors.base import LOG, Done, Task, record_end
from lavita.executors.heartbeat import EventTail, Result
from lavita.executors.process import Ended
from lavita.executors.slurm_node import SlurmTask
from lavita.executors.slurm_options import SAVING_SHARE, SlurmOptions
from lavita.executors.slurm_queue import JobState, Queue, last_line
from lavita.results.records import AttemptRecord, read_record

if TYPE_CHECKING:
    from submitit import AutoExecutor

# Ended by the cluster or by somebody, not by what the process did: the same command resumes it.
FROM_OUTSIDE = {"BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT", ""}
# A network file system may show another machine's files so much later.
FILES_SECONDS = 60.0
SLURM_LINES = ("srun:", "slurmstepd")  # lines that only say that a process has ended


class ClusterJob:
    """A task as a job. job: Slurm's id of it; logs: the folder of submitit's own; prefixed: whether lines of the
    display must say whose they are."""

    def __init__(self, task: Task, job: str, logs: Path, display: Display, prefixed: bool) -> None:
        self.task, self.job, self.logs, self.display, self.prefixed = task, job, logs, display, prefixed
        self.tail = EventTail(task.folder / LOG)
        self.channel: Channel | None = None
        self.state: JobState | None = None
        self.ended_at: float | None = None

    def update(self, state: JobState | None) -> Ended | None:
        """Show what is new; how the task ended, once it has. state None: Slurm has forgotten the job."""
        if state is not None and not state.waits:
            self.show_state(state)
        for event in self.tail.events():
            self.open_channel().show(event)
        self.show_state(state)
        if state is not None and not state.ended:
            return None
        return self.end_of("" if state is None else state.state)

    def show_state(self, state: JobState | None) -> None:
        """Say when the job starts, and when it is back in the queue."""
        before, self.state = self.state, state
        if state is None:
            return
        ran = before is not None and not before.waits
        if state.waits and ran:
            self.close(waits=True)
            self.display.line(f"{self.task.title}: preempted or near its time limit, waits again (job {self.job})")
        elif state.state == "RUNNING" and (before is None or before.state != "RUNNING"):
            self.open_channel()
            self.display.line(f"  {self.task.prefix}job {self.job} runs on {state.node}")

    def open_channel(self) -> Channel:
        """The channel of the display, opened when the job first has something to show."""
        if self.channel is None:
            self.channel = self.display.channel(self.task.title)
            self.channel.prefix = self.task.prefix if self.prefixed else ""
        return self.channel

    def close(self, said: str = "", waits: bool = False) -> None:
        """Its channel is no longer needed; said: the last line of the task."""
        if self.channel is not None:
            self.channel.close(said, waits)
            self.channel = None
        elif said:
            self.display.line(said)

    def end_of(self, state: str) -> Ended | None:
        """How the task of a job that has ended did, by its record and log; None while they may still come. Where nobody
        has written an end, what Slurm says is written as such.
        """
        record = read_record(self.task.folder, AttemptRecord)
        unfinished = record is not None and record.status in ("queued", "running")
        completed = record is not None and record.status == "ok"
        silent = unfinished or (self.tail.result is None and (record is None or completed))
        if silent and self.may_come():
            return None
        if silent and not completed:
            status, reason = ("interrupted" if state in FROM_OUTSIDE else "failed"), self.slurm_reason(state)
            if unfinished:
                record_end(self.task.folder, status, reason)
            return Ended(1, Result(status, reason))
        result = self.tail.result or Result("ok")
        if record is not None:
            result = replace(result, status=record.status, reason=record.reason)
        return Ended(0 if result.status in ("ok", "stale") else 1, result)

    def may_come(self) -> bool:
        """Whether the file system may still show more."""
        now = time.monotonic()
        if self.ended_at is None:
            self.ended_at = now
        return now - self.ended_at < FILES_SECONDS

    def slurm_reason(self, state: str) -> str:
        """One line for the record of a task that ended without a message."""
        reason = f"ended by Slurm: {state} (job {self.job})" if state else f"Slurm no longer knows job {self.job}"
        if state == "OUT_OF_MEMORY":
            reason += "; --slurm mem_gb=N asks for more"
        log = self.logs / f"{self.job}_0_log.err"
        lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
        lines = [line for line in lines if not line.startswith(SLURM_LINES)]
        if state == "FAILED" and lines:
            reason += f": {lines[-1].strip()}"
        return reason


Submit = Callable[[Path, Sequence[SlurmTask], Mapping[str, Any]], list[str]]

POLL_SECONDS = 3.0
END_SECONDS = 45.0  # for Slurm to end a job whose process has ended or is killed (KillWait is 30 as a rule)
QUIET_SECONDS = 60.0  # between two lines that say what still waits
REQUEUES = 10**9  # submitit counts them down; here only the budget ends a task


class SlurmExecutor:
    """Runs tasks as jobs. folder: slurm/ of the results, on a file system that all nodes see. workers: jobs at a time,
    None for as many as Slurm lets run. hang_timeout: as of Launcher.
    """

    def __init__(
        self,
        folder: Path,
        workers: int | None,
        options: SlurmOptions,
        hang_timeout: float,
        display: Display,
        submit: Submit | None = None,
        queue: Queue | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.folder, self.workers, self.options = folder, workers, options
        self.hang_timeout, self.display, self.poll_seconds = hang_timeout, display, poll_seconds
        self.submit, self.queue = submit or submit_array, queue or Queue(folder)
        self.last_line, self.last_moment = "", float("-inf")

    def run(self, tasks: Sequence[Task], done: Done = lambda *_: None) -> list[Ended]:
        """How each task ended, in their order; done is called as each does.

        Raises KeyboardInterrupt once every job has ended; ConfigError where Slurm does not take the jobs.
        """
        if not tasks:
            return []
        try:
            return self.wait(self.submitted(tasks), done)
        except ConfigError:
            raise  # Slurm took no job
        except BaseException:
            self.stop()
            raise

    @property
    def grace(self) -> float:
        """Seconds for a process to save its state, of the warning before a time limit."""
        return self.options.signal_delay_s * SAVING_SHARE

    def submitted(self, tasks: Sequence[Task]) -> list[ClusterJob]:
        """One array with one job per task."""
        calls = [SlurmTask(task, self.hang_timeout, self.grace) for task in tasks]
        prefixed = len(tasks) > 1 and self.workers != 1
        parameters = submitit_parameters(tasks, self.workers, self.options) | {"name": self.queue.name}
        ids = self.submit(self.folder, calls, parameters)
        array = ids[0].partition("_")[0]
        self.display.line(f"  Slurm job {array}: " + ("one task" if len(ids) == 1 else f"an array of {len(ids)}"))
        return [
            ClusterJob(task, job, self.folder, self.display, prefixed) for task, job in zip(tasks, ids, strict=True)
        ]

    def wait(self, jobs: Sequence[ClusterJob], done: Done) -> list[Ended]:
        """Until all jobs have ended, showing how far each is."""
        self.display.expect([job.task.title for job in jobs], self.workers or len(jobs))
        ended: dict[str, Ended] = {}
        while len(ended) < len(jobs):
            try:
                states = self.queue.jobs()
            except ConfigError:
                self.say("  squeue does not answer; trying again")
                time.sleep(self.poll_seconds)
                continue
            for job in jobs:
                if job.job not in ended and (end := job.update(states.get(job.job))) is not None:
                    ended[job.job] = end
                    job.close(done(job.task, end) or "")
            if len(ended) < len(jobs):
                self.say_what_waits([states[job.job] for job in jobs if job.job in states])
                time.sleep(self.poll_seconds)
        remove_pickles(self.folder, [job.job for job in jobs])
        return [ended[job.job] for job in jobs]

    def say_what_waits(self, states: Sequence[JobState]) -> None:
        """How many jobs wait in the queue, and why."""
        waiting = [state for state in states if state.waits]
        reasons = ", ".join(dict.fromkeys(state.reason for state in waiting if state.reason != "None"))
        if reasons:
            self.say(f"  {len(waiting)} waiting in the queue: {reasons}")

    def say(self, text: str) -> None:
        """A line where it is another than the last one, at most every QUIET_SECONDS."""
        if text != self.last_line and time.monotonic() - self.last_moment >= QUIET_SECONDS:
            self.last_line, self.last_moment = text, time.monotonic()
            self.display.line(text)

    def stop(self) -> None:
        """Ask all jobs to end, and wait until they have; a Ctrl-C meanwhile ends them as scancel does."""
        try:
            if self.left():
                self.display.line("stopping: each job saves its state (Ctrl-C again cancels them at once)")
            self.wait_for_end(self.grace + END_SECONDS)
        except KeyboardInterrupt:
            pass
        if self.left():
            self.queue.cancel()
            self.wait_for_end(END_SECONDS, ask=False)
        if left := self.left():
            jobs = ", ".join(state.job for state in left)
            self.display.line(f"Slurm still has jobs {jobs}; the same command resumes once they have ended")

    def wait_for_end(self, seconds: float, ask: bool = True) -> None:
        """Until no job is left, for so long; with ask, each is asked to end again and again: a job that was only
        starting has not heard it."""
        deadline = time.monotonic() + seconds
        while self.left() and time.monotonic() < deadline:
            if ask:
                self.queue.ask_to_end()
            time.sleep(self.poll_seconds)

    def left(self) -> list[JobState]:
        """The jobs that wait or run; none where Slurm does not answer."""
        try:
            return self.queue.unfinished()
        except ConfigError as error:
            self.display.line(str(error))
            return []


def submitit_parameters(tasks: Sequence[Task], workers: int | None, options: SlurmOptions) -> dict[str, Any]:
    """submitit's parameters for an array of tasks. Raises ConfigError where they want different shapes of a job."""
    shapes = {(task.threads, task.devices, task.nodes) for task in tasks}
    if len(shapes) > 1:
        raise ConfigError("compute.threads, devices and nodes: wanted the same for all runs with --executor slurm")
    ((threads, devices, nodes),) = shapes
    cpus = options.cpus_per_task or threads
    folder = import_folder()
    search = [f"export PYTHONPATH={shlex.quote(folder)}${{PYTHONPATH:+:$PYTHONPATH}}"] if folder else []
    return {
        "nodes": nodes,
        "tasks_per_node": devices,
        "cpus_per_task": cpus,
        "mem_gb": options.mem_gb,
        "slurm_signal_delay_s": options.signal_delay_s,
        "slurm_array_parallelism": workers or len(tasks),
        # Since Slurm 22.05 srun does not take the number over from sbatch. A process that dies takes the others along.
        "slurm_srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        "slurm_setup": [*options.setup, *search],
        # submitit reads a time in minutes only, and what else it does not know is for sbatch.
        "slurm_additional_parameters": {"requeue": True, "time": options.time} | dict(options.sbatch),
    }


def submitit_executor(folder: Path, parameters: Mapping[str, Any]) -> AutoExecutor:
    """submitit's executor of an array, its parameters checked by submitit."""
    import submitit

    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=REQUEUES)
    executor.update_parameters(**parameters)
    return executor


def submit_array(folder: Path, calls: Sequence[SlurmTask], parameters: Mapping[str, Any]) -> list[str]:
    """Submit an array through submitit; its jobs' ids. Raises ConfigError with what sbatch said."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit_executor(folder, parameters)
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints what sbatch said, too
            return [job.job_id for job in executor.submit_array(calls)]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"--executor slurm: sbatch refused the job: {last_line(str(error))}") from None


def remove_pickles(folder: Path, jobs: Sequence[str]) -> None:
    """Remove what only the jobs read and wrote: this command reads no pickle."""
    for path in (path for job in jobs for path in folder.glob(f"{job}_*.pkl*")):
        path.unlink(missing_ok=True)
