"""One task in a job of Slurm, as the waiting run sees it: its log, its state, its end."""

from __future__ import annotations

import time
from pathlib import Path

from lavita.bench.ledger import read_record
from lavita.runner.display import Channel, Display
from lavita.runner.launch import Ended
from lavita.runner.log_tail import LogTail
from lavita.runner.slurm_queue import JobState
from lavita.runner.task import LOG, Task, settle

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
        record = read_record(self.task.folder)
        begun = record is not None and record["status"] in ("queued", "running")
        wordless = begun or (self.tail.result is None and (record is None or record["status"] == "ok"))
        if wordless and self.may_come():
            return None
        if wordless and not (record and record["status"] == "ok"):
            status, reason = ("interrupted" if state in FROM_OUTSIDE else "failed"), self.said_by_slurm(state)
            if begun:
                settle(self.task.folder, status, reason)
            return Ended(1, {"status": status, "reason": reason})
        result = self.tail.result or {}
        if record is not None:
            result = result | {"status": record["status"], "reason": record.get("reason", "")}
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
