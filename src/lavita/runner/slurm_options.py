"""What the user asks of Slurm: `--slurm KEY=VALUE` as submitit's parameters, other keys as options of sbatch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lavita.config import ConfigError

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
