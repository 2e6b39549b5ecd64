"""Slurm's queue as far as a run needs it: its jobs by their name, their states, and how to end them.

submitit's own watcher is not used: it reads sacct, so it needs accounting; it takes a job that is CONFIGURING or held
for finished; and it says neither that Slurm does not answer nor that it has forgotten a job.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lavita.config.schema import ConfigError
from lavita.files import atomic_write_text

FOLDER = "slurm"  # in the results folder
NAME = "job-name"
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
COMMAND_SECONDS = 60.0
# The columns of squeue, an element of an array a line.
COLUMNS = ("--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N")


@dataclass(frozen=True)
class JobState:
    """job: its id as Slurm shows it (12, 12_3); state: PENDING, RUNNING, ...; reason: why it waits or how it ended;
    node: where it runs."""

    job: str
    state: str
    reason: str
    node: str

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Queue:
    """The jobs of one results folder: all bear its name, which lies in slurm/job-name, so that a run finds them again
    whatever became of the one that submitted them. folder: slurm/ of the results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        """The name of the folder's jobs, made at its first use."""
        path = self.folder / NAME
        if not path.is_file():
            results = UNSAFE.sub("_", self.folder.parent.name)[:40]
            atomic_write_text(path, f"lavita-{results}-{secrets.token_hex(3)}\n")
        return path.read_text(encoding="utf-8").strip()

    def jobs(self) -> dict[str, JobState]:
        """The state of every job of the folder that Slurm still knows, by its id. Raises ConfigError where Slurm does
        not answer."""
        done = run_command("squeue", *COLUMNS, f"--name={self.name}")
        if done.returncode != 0:
            raise ConfigError(
                f"squeue does not answer ({last_line(done.stderr)}), so jobs of an earlier run may still wait or run; "
                f"try again, or remove {self.folder / NAME} if you know that none does"
            )
        return {state.job: state for state in read_states(done.stdout)}

    def unfinished(self) -> list[JobState]:
        """The jobs that wait or run. Raises ConfigError where Slurm does not answer."""
        if not (self.folder / NAME).is_file():
            return []
        return [state for state in self.jobs().values() if not state.ended]

    def refuse_unfinished(self) -> None:
        """Raise ConfigError where jobs of an earlier run still wait or run: two must not work on one folder."""
        left = self.unfinished()
        if left:
            jobs = ", ".join(f"{state.job} ({state.state.lower()})" for state in left[:4])
            more = f" and {len(left) - 4} more" if len(left) > 4 else ""
            raise ConfigError(
                f"Slurm jobs of an earlier run of this results folder are not finished: {jobs}{more}; wait until they "
                f"are, or end them: scancel --name={self.name}"
            )

    def ask_to_end(self) -> None:
        """Take what waits out of the queue, and ask what runs to save its state and end."""
        run_command("scancel", f"--name={self.name}", "--state=PENDING")
        run_command("scancel", f"--name={self.name}", "--state=RUNNING", "--signal=TERM")

    def cancel(self) -> None:
        """End all jobs of the folder: Slurm kills what has not ended within its KillWait."""
        run_command("scancel", f"--name={self.name}")


def read_states(text: str) -> list[JobState]:
    """The lines of squeue in COLUMNS."""
    return [JobState(*(part.strip() for part in line.split("|", 3))) for line in text.splitlines()]


def run_command(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of Slurm, with its output; one that hangs or is not there counts as failed."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"no answer within {COMMAND_SECONDS:g} s")
    except OSError as error:
        return subprocess.CompletedProcess(words, 1, "", f"{words[0]}: {error.strerror}")


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def is_preempted(job: str) -> bool:
    """Whether Slurm says that it preempts a job."""
    fields = dict(field.partition("=")[::2] for field in run_command("scontrol", "show", "job", job).stdout.split())
    return fields.get("PreemptTime", "None") != "None"
