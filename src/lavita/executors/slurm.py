"""Tasks as jobs of a Slurm cluster: one array, requeued where they must go, waited for here."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lavita.config.registry import PACKAGE
from lavita.config.schema import ConfigError
from lavita.console import Channel, Display
from lavita.executors.heartbeat import LogTail
from lavita.executors.process import Ended
from lavita.executors.slurm_node import SlurmTask
from lavita.executors.slurm_queue import JobState, Queue, last_line
from lavita.executors.task import LOG, Task, settle
from lavita.results.records import AttemptRecord, read_record

# Ended by the cluster or by somebody, not by what the process did: the same command goes on.
FROM_OUTSIDE = {"BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT", ""}
# A network file system may show another machine's files so much later. A job that ended well has written them.
SETTLE_SECONDS = 60.0
OF_SLURM = ("srun:", "slurmstepd")  # lines that only say that a process has ended


class ClusterJob:
    """job: Slurm's id of it; logs: the folder of submitit's own."""

    def __init__(self, task: Task, job: str, logs: Path, display: Display, prefixed: bool) -> None:
        self.task, self.job, self.logs, self.display, self.prefixed = task, job, logs, display, prefixed
        self.tail = LogTail(task.folder / LOG)
        self.channel: Channel | None = None
        self.state: JobState | None = None
        self.ended_at: float | None = None

    def look(self, state: JobState | None) -> Ended | None:
        """Show what is new; how the task ended, once it has. state: None where Slurm has forgotten the job."""
        if state is not None and not state.waits:
            self.show_state(state)
        for event in self.tail.events():
            self.show_in().show(event)
        self.show_state(state)
        if state is not None and not state.ended:
            return None
        ended = self.end_of("" if state is None else state.state)
        if ended is not None:
            self.close()
        return ended

    def show_state(self, state: JobState | None) -> None:
        """Say when the job starts, and when it is back in the queue."""
        before, self.state = self.state, state
        if state is None:
            return
        ran = before is not None and not before.waits
        if state.waits and ran:
            self.close()
            self.display.line(f"{self.task.title}: preempted or near its time limit, waits again (job {self.job})")
        elif state.state == "RUNNING" and (before is None or before.state != "RUNNING"):
            self.show_in()
            self.display.line(f"  {self.task.prefix}job {self.job} runs on {state.node}")

    def show_in(self) -> Channel:
        """The channel of the display, opened when the job first has something to show."""
        if self.channel is None:
            self.channel = self.display.channel(self.task.title)
            self.channel.prefix = self.task.prefix if self.prefixed else ""
        return self.channel

    def close(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def end_of(self, state: str) -> Ended | None:
        """How the task of a job that has ended did, by its record and log; None while they may still come. Where nobody
        has written an end, what Slurm says is written as such.
        """
        record = read_record(self.task.folder, AttemptRecord)
        begun = record is not None and record.status in ("queued", "running")
        wordless = begun or (self.tail.result is None and (record is None or record.status == "ok"))
        if wordless and self.may_come():
            return None
        if wordless and not (record and record.status == "ok"):
            status, reason = ("interrupted" if state in FROM_OUTSIDE else "failed"), self.said_by_slurm(state)
            if begun:
                settle(self.task.folder, status, reason)
            return Ended(1, {"status": status, "reason": reason})
        result = self.tail.result or {}
        if record is not None:
            result = result | {"status": record.status, "reason": record.reason}
        return Ended(0 if result["status"] in ("ok", "stale") else 1, result)

    def may_come(self) -> bool:
        """Whether the file system may still show more."""
        now = time.monotonic()
        if self.ended_at is None:
            self.ended_at = now
        return now - self.ended_at < SETTLE_SECONDS

    def said_by_slurm(self, state: str) -> str:
        """One line for the record of a task that ended without a word."""
        said = f"ended by Slurm: {state} (job {self.job})" if state else f"Slurm no longer knows job {self.job}"
        if state == "OUT_OF_MEMORY":
            said += "; --slurm mem_gb=N asks for more"
        log = self.logs / f"{self.job}_0_log.err"
        lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
        lines = [line for line in lines if not line.startswith(OF_SLURM)]
        if state == "FAILED" and lines:
            said += f": {lines[-1].strip()}"
        return said


Done = Callable[[Task, Ended], None]
Submit = Callable[[Path, Sequence[SlurmTask], Mapping[str, Any]], list[str]]

POLL_SECONDS = 3.0
END_SECONDS = 45.0  # for Slurm to end a job whose process has ended or is killed (KillWait is 30 as a rule)
QUIET_SECONDS = 60.0  # between two lines that say what still waits
REQUEUES = 10**9  # submitit counts them down; here only the budget ends a cell


class SlurmExecutor:
    """folder: slurm/ of the results, on a file system that all nodes see. workers: jobs at a time, None for as many as
    Slurm lets run; asked: submitit's parameters, over those that follow from the tasks. patience: as of Launcher.
    """

    def __init__(
        self,
        folder: Path,
        workers: int | None,
        asked: Mapping[str, Any],
        patience: float,
        display: Display,
        submit: Submit | None = None,
        queue: Queue | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.folder, self.workers, self.asked, self.patience, self.display = folder, workers, asked, patience, display
        self.submit, self.queue, self.poll_seconds = submit or submitted, queue or Queue(folder), poll_seconds

    def run(self, tasks: Sequence[Task], done: Done = lambda *_: None) -> list[Ended]:
        """How each task ended, in their order; done is told as each does.

        Raises KeyboardInterrupt once every job has ended; ConfigError where Slurm does not take the jobs.
        """
        if not tasks:
            return []
        try:
            return self.see_through(self.submitted(tasks), done)
        except ConfigError:
            raise  # Slurm took no job
        except BaseException:
            self.stop()
            raise

    @property
    def grace(self) -> float:
        """Seconds for a process to keep where it is: two thirds of the warning before a time limit. The rest is for its
        record, and for a signal that comes late."""
        return self.asked["signal_delay_s"] * 2 / 3

    def submitted(self, tasks: Sequence[Task]) -> list[ClusterJob]:
        """One array with a job a task."""
        calls = [SlurmTask(task, self.patience, self.grace) for task in tasks]
        prefixed = len(tasks) > 1 and self.workers != 1
        parameters = parameters_of(tasks, self.workers, self.asked) | {"job_name": self.queue.name}
        ids = self.submit(self.folder, calls, parameters)
        array = ids[0].partition("_")[0]
        self.display.line(f"  Slurm job {array}: " + ("one task" if len(ids) == 1 else f"an array of {len(ids)}"))
        return [
            ClusterJob(task, job, self.folder, self.display, prefixed) for task, job in zip(tasks, ids, strict=True)
        ]

    def see_through(self, jobs: Sequence[ClusterJob], done: Done) -> list[Ended]:
        """Wait for all jobs, showing how far each is."""
        array = jobs[0].job.partition("_")[0]
        ended: dict[str, Ended] = {}
        waiting = Waiting(self.display)
        while True:
            states = self.queue.states(array)
            for job in jobs if states is not None else ():
                if job.job in ended:
                    continue
                end = job.look(states.get(job.job))
                if end is not None:
                    ended[job.job] = end
                    done(job.task, end)
            if len(ended) == len(jobs):
                remove_pickles(self.folder, array)
                return [ended[job.job] for job in jobs]
            waiting.show(states)
            time.sleep(self.poll_seconds)

    def stop(self) -> None:
        """Ask all jobs to end, and wait until they have; a Ctrl-C meanwhile ends them as scancel does."""
        try:
            if self.left():
                self.display.line("stopping: each job keeps where it is (Ctrl-C again cancels them at once)")
            self.wait_for_end(self.grace + END_SECONDS)
        except KeyboardInterrupt:
            pass
        if self.left():
            self.queue.end()
            self.wait_for_end(END_SECONDS, ask=False)
        if left := self.left():
            jobs = ", ".join(state.job for state in left)
            self.display.line(f"Slurm still has jobs {jobs}; the same command goes on once they have ended")

    def wait_for_end(self, seconds: float, ask: bool = True) -> None:
        """Until no job is left, for so long; with ask, each is asked to end again and again: a job that was only
        starting has not heard it."""
        deadline = time.monotonic() + seconds
        while self.left() and time.monotonic() < deadline:
            if ask:
                self.queue.ask_to_end()
            time.sleep(self.poll_seconds)

    def left(self) -> list[JobState]:
        """The jobs that wait or run; none where Slurm does not say."""
        try:
            return self.queue.unfinished()
        except ConfigError as error:
            self.display.line(str(error))
            return []


class Waiting:
    """Says now and then what waits in the queue, and why."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.said, self.moment = "", float("-inf")

    def show(self, states: Mapping[str, JobState] | None) -> None:
        """A line where something has changed, at most every QUIET_SECONDS. None: Slurm does not answer."""
        waits = [state for state in (states or {}).values() if state.waits]
        reasons = ", ".join(dict.fromkeys(state.reason for state in waits if state.reason != "None"))
        text = f"  {len(waits)} waiting in the queue: {reasons}" if reasons else ""
        if states is None:
            text = "  squeue does not answer; trying on"
        if text and text != self.said and time.monotonic() - self.moment >= QUIET_SECONDS:
            self.said, self.moment = text, time.monotonic()
            self.display.line(text)


def parameters_of(tasks: Sequence[Task], workers: int | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """submitit's parameters for an array of tasks. Raises ConfigError where they want different shapes of a job."""
    shapes = {(task.threads, task.devices, task.nodes) for task in tasks}
    if len(shapes) > 1:
        raise ConfigError("compute.threads, devices and nodes: wanted the same for all cells with --executor slurm")
    ((threads, devices, nodes),) = shapes
    cpus = asked.get("cpus_per_task", threads)
    found: dict[str, Any] = {"nodes": nodes, "ntasks_per_node": devices, "cpus_per_task": cpus}
    found |= dict(asked)
    # Since Slurm 22.05 srun does not take the number over from sbatch. A process that dies takes the others with it.
    found["srun_args"] = [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"]
    search = shlex.quote(str(PACKAGE.parent))
    found["setup"] = [*asked.get("setup", ()), f"export PYTHONPATH={search}${{PYTHONPATH:+:$PYTHONPATH}}"]
    found["array_parallelism"] = workers or len(tasks)
    return found


def submitted(folder: Path, calls: Sequence[SlurmTask], parameters: Mapping[str, Any]) -> list[str]:
    """Submit an array through submitit; its jobs' ids. Raises ConfigError with what sbatch said."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
    executor.update_parameters(**parameters)
    try:
        return [job.job_id for job in executor.submit_array(calls)]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"--executor slurm: sbatch refused the job: {last_line(str(error))}") from None


def remove_pickles(folder: Path, array: str) -> None:
    """Remove what only the jobs of an array read."""
    for path in (*folder.glob(f"{array}_*.pkl"), *folder.glob(f"{array}_*.pkl.save_tmp")):
        path.unlink(missing_ok=True)
