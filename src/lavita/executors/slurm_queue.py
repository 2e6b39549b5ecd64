"""Slurm's queue as far as a run needs it: its jobs by name, their states, and their end. No accounting is needed."""

from __future__ import annotations

import difflib
import re
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavita.config.schema import ConfigError
from lavita.files import atomic_write_text

# A job is requeued before its limit and goes on, so a limit costs a wait in the queue, never a result.
DEFAULTS = {"time": 240, "signal_delay_s": 90}
MEGABYTES = 1024

# What the run itself decides, and how the user says it instead.
OURS = {
    "nodes": "compute.nodes=N",
    "ntasks_per_node": "compute.devices=N",
    "tasks_per_node": "compute.devices=N",
    "gpus_per_task": "gpus_per_node=N, of which each process finds its own",
    "array": "--workers N for how many jobs at once",
    "array_parallelism": "--workers N",
    "job_name": "nothing: the run finds its jobs again by their name",
    "name": "nothing: the run finds its jobs again by their name",
    "output": "nothing: logs are in the cells' folders and in slurm/ of the results folder",
    "error": "nothing: logs are in the cells' folders and in slurm/ of the results folder",
    "signal": "signal_delay_s=SECONDS",
    "requeue": "nothing: jobs are requeued",
}


def minutes(text: str) -> int:
    """A time limit as sbatch reads it (90, 1:30:00, 2-12, 1-00:00:00) in whole minutes, rounded up."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if min(parts) < 0 or len(parts) > 3 or (dash and int(days) < 0):
        raise ValueError(text)
    if dash:
        hours, mins, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, mins, seconds = parts
    else:
        hours, mins, seconds = [0, *parts, 0][:3]
    total = (int(days) * 24 * 60 if dash else 0) + hours * 60 + mins + (seconds + 59) // 60
    if total < 1:
        raise ValueError(text)
    return total


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def memory(text: str) -> str:
    """Gigabytes as sbatch wants them."""
    amount = float(text)
    if not 0 < amount < float("inf"):
        raise ValueError(text)
    return f"{round(amount * MEGABYTES)}MB"


# The keys of submitit that users need, how each is read, and what is allowed, in words.
READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "time": (minutes, "minutes, or a time as sbatch has it, such as 1-12:00:00"),
    "mem_gb": (memory, "gigabytes a node"),
    "signal_delay_s": (at_least_one, "whole seconds"),
    "cpus_per_task": (at_least_one, "a whole number"),
    "gpus_per_node": (str, "a number, or TYPE:NUMBER"),
    "setup": (str, "a line of shell"),
    **dict.fromkeys(
        (
            "partition", "account", "qos", "constraint", "exclude", "nodelist", "gres", "dependency", "comment",
            "mail_type", "mail_user", "mem_per_cpu", "mem_per_gpu", "exclusive", "wckey",
        ),
        (str, "text"),
    ),
}  # fmt: skip
NAMES_OF_SUBMITIT = {"mem_gb": "mem"}


def slurm_parameters(items: Sequence[str]) -> dict[str, Any]:
    """submitit's parameters from `KEY=VALUE` items; what it does not know is an option of sbatch, in
    `additional_parameters`. setup may be given several times, a line each. Raises ConfigError.
    """
    found: dict[str, Any] = dict(DEFAULTS)
    other: dict[str, Any] = {}
    given = set()
    for item in items:
        key, equals, value = item.partition("=")
        key = key.strip().removeprefix("--").replace("-", "_")
        check_key(item, key, bool(equals and value))
        if key in given and key != "setup":
            raise ConfigError(f"--slurm: {key} is given twice")
        given.add(key)
        if key not in READERS:
            other[key] = flag(value)
            continue
        reader, wanted = READERS[key]
        try:
            read = reader(value)
        except ValueError:
            raise ConfigError(f"--slurm {key}: got {value!r}, wanted {wanted}") from None
        if key == "setup":
            found.setdefault("setup", []).append(read)
        else:
            found[NAMES_OF_SUBMITIT.get(key, key)] = flag(read) if key == "exclusive" else read
    return found | {"additional_parameters": {"requeue": True} | other}


def check_key(item: str, key: str, has_value: bool) -> None:
    """Raise ConfigError for a key that is none, that the run decides, or that looks like a mistyped one."""
    if not has_value or not key.isidentifier():
        raise ConfigError(f"--slurm: got {item!r}, wanted KEY=VALUE, for example partition=gpu")
    if key in OURS:
        raise ConfigError(f"--slurm {key}: the run sets it itself; give {OURS[key]}")
    close = difflib.get_close_matches(key, READERS, n=1, cutoff=0.8)
    if key not in READERS and close:
        raise ConfigError(f"--slurm: unknown key {key!r}: did you mean {close[0]!r}?")


def flag(value: str) -> Any:
    """True for an option of sbatch that takes no value."""
    return True if value == "true" else value


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
            atomic_write_text(path, f"lavita-{of}-{secrets.token_hex(3)}\n")
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
