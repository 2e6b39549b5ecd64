"""Slurm's queue as far as a run needs it: its jobs by name, their states, and their end. No accounting is needed."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lavita.config import ConfigError
from lavita.whole import write_whole

NAME = "job-name"
WAITS = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
COMMAND_SECONDS = 60.0
# The columns in which squeue is asked, an element of an array a line.
FORMAT = ("--noheader", "--array", "--format=%F|%K|%T|%r|%N")


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
        return self.state in WAITS

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Queue:
    """The jobs of one results folder: all bear its name, which lies in slurm/job-name, so that a run finds them again
    whatever became of the one that submitted them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        """The name of the folder's jobs, made at its first use."""
        path = self.folder / NAME
        if not path.is_file():
            of = UNSAFE.sub("_", self.folder.parent.name)[:40]
            write_whole(path, f"lavita-{of}-{secrets.token_hex(3)}\n")
        return path.read_text(encoding="utf-8").strip()

    def states(self, job: str) -> dict[str, JobState] | None:
        """The states of a job, or of each job of an array; none where Slurm has forgotten it, None where Slurm does not
        answer."""
        done = command("squeue", *FORMAT, "--states=all", f"--jobs={job}")
        if done.returncode != 0:
            return {} if "Invalid job id" in done.stderr else None
        return {state.job: state for state in read_states(done.stdout)}

    def unfinished(self) -> list[JobState]:
        """All jobs of the folder that wait or run. Raises ConfigError where Slurm can't be asked."""
        if not (self.folder / NAME).is_file():
            return []
        done = command("squeue", *FORMAT, "--states=all", f"--name={self.name}")
        if done.returncode != 0:
            raise ConfigError(
                f"squeue does not answer ({last_line(done.stderr)}), so jobs of an earlier run may still wait or run; "
                f"try again, or remove {self.folder / NAME} if you know that none does"
            )
        return [state for state in read_states(done.stdout) if not state.ended]

    def refuse_unfinished(self) -> None:
        """Raise ConfigError where jobs of an earlier run still wait or run: two must not work on one cell."""
        left = self.unfinished()
        if left:
            jobs = ", ".join(f"{state.job} ({state.state.lower()})" for state in left[:4])
            more = f" and {len(left) - 4} more" if len(left) > 4 else ""
            raise ConfigError(
                f"Slurm jobs of an earlier run of this results folder are not finished: {jobs}{more}; wait until they "
                f"are, or end them: scancel --name={self.name}"
            )

    def ask_to_end(self) -> None:
        """Take what waits out of the queue, and ask what runs to keep where it is and end."""
        command("scancel", f"--name={self.name}", "--state=PENDING")
        command("scancel", f"--name={self.name}", "--state=RUNNING", "--signal=TERM")

    def end(self) -> None:
        """End all jobs of the folder, as scancel does: Slurm kills what has not ended within its KillWait."""
        command("scancel", f"--name={self.name}")


def read_states(text: str) -> list[JobState]:
    """The lines of squeue in FORMAT."""
    found = []
    for line in text.splitlines():
        array, index, state, reason, node = (part.strip() for part in line.split("|", 4))
        job = array if index in ("", "N/A") else f"{array}_{index}"
        found.append(JobState(job, state, reason, node))
    return found


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of Slurm, with its output; one that hangs or is not there counts as failed."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"no answer within {COMMAND_SECONDS:g} s")
    except OSError as error:
        return subprocess.CompletedProcess(words, 1, "", f"{words[0]}: {error.strerror}")


def last_line(text: str) -> str:
    lines: Sequence[str] = text.strip().splitlines()
    return lines[-1] if lines else "no word"
