"""What `--slurm KEY=VALUE` asks of Slurm, checked before anything is done; sbatch and submitit read it as it is."""

from __future__ import annotations

import difflib
import importlib.util
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lavita.config.compose import Experiment
from lavita.config.registry import checkout
from lavita.config.schema import ConfigError

LOCAL, SLURM = "local", "slurm"  # values of --executor
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")


@dataclass(frozen=True)
class SlurmOptions:
    """time: of a job, as sbatch reads it; signal_delay_s: warning before it; mem_gb: a node; cpus_per_task None:
    compute.threads; setup: lines of shell before a job; sbatch: all other options of sbatch, True for a flag.

    A job is requeued before its time limit and resumes, so a limit costs a wait in the queue, never a result.
    """

    time: str = "240"
    signal_delay_s: int = 90
    mem_gb: float | None = None
    cpus_per_task: int | None = None
    setup: tuple[str, ...] = ()
    sbatch: Mapping[str, str | bool] = field(default_factory=dict)


def time_limit(text: str) -> str:
    """A time as sbatch reads it (90, 1:30:00, 2-12, 1-00:00:00) but for 0, which is no limit."""
    if not re.fullmatch(r"([0-9]+-)?[0-9]+(:[0-9]+){0,2}", text) or not text.strip("0:-"):
        raise ValueError(text)
    return text


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def gigabytes(text: str) -> float:
    amount = float(text)
    if not 0 < amount < float("inf"):
        raise ValueError(text)
    return amount


# How the values that are more than text are read, and what is allowed, in words.
READERS: Mapping[str, tuple[Callable[[str], object], str]] = {
    "time": (time_limit, "minutes, or a time as sbatch has it, such as 1-12:00:00"),
    "mem_gb": (gigabytes, "gigabytes a node"),
    "signal_delay_s": (positive, "whole seconds"),
    "cpus_per_task": (positive, "a whole number"),
}
# Keys that a mistyped one is compared with.
KNOWN = (
    *READERS, "setup", "partition", "account", "qos", "constraint", "exclude", "nodelist", "gpus_per_node", "gres",
    "dependency", "comment", "mail_type", "mail_user", "mem_per_cpu", "mem_per_gpu", "exclusive", "wckey",
)  # fmt: skip
# What the run itself decides, and how the user says it instead.
DECIDED = {
    "nodes": "compute.nodes=N",
    "ntasks_per_node": "compute.devices=N",
    "tasks_per_node": "compute.devices=N",
    "gpus_per_task": "gpus_per_node=N, of which each process finds its own",
    "array": "--workers N for how many jobs at once",
    "array_parallelism": "--workers N",
    "job_name": "nothing: the run finds its jobs again by their name",
    "name": "nothing: the run finds its jobs again by their name",
    "output": "nothing: logs are in the runs' folders and in slurm/ of the results folder",
    "error": "nothing: logs are in the runs' folders and in slurm/ of the results folder",
    "signal": "signal_delay_s=SECONDS",
    "requeue": "nothing: jobs are requeued",
}


def read_slurm_options(items: Sequence[str]) -> SlurmOptions:
    """The options in `KEY=VALUE` items; setup may be given several times, a line each. Raises ConfigError."""
    found: dict[str, object] = {}
    setup: list[str] = []
    for item in items:
        key, equals, value = item.partition("=")
        key = key.strip().removeprefix("--").replace("-", "_")
        check_key(item, key, bool(equals and value))
        if key == "setup":
            setup.append(value)
            continue
        if key in found:
            raise ConfigError(f"--slurm: {key} is given twice")
        reader, allowed = READERS.get(key, (lambda text: True if text == "true" else text, ""))
        try:
            found[key] = reader(value)
        except ValueError:
            raise ConfigError(f"--slurm {key}: got {value!r}, wanted {allowed}") from None
    own = {key: value for key, value in found.items() if key in READERS}
    others = {key: value for key, value in found.items() if key not in READERS}
    return replace(SlurmOptions(setup=tuple(setup), sbatch=others), **own)


def check_key(item: str, key: str, has_value: bool) -> None:
    """Raise ConfigError for a key that is none, that the run decides, or that looks like a mistyped one."""
    if not has_value or not key.isidentifier():
        raise ConfigError(f"--slurm: got {item!r}, wanted KEY=VALUE, for example partition=gpu")
    if key in DECIDED:
        raise ConfigError(f"--slurm {key}: the run sets it itself; give {DECIDED[key]}")
    close = difflib.get_close_matches(key, KNOWN, n=1, cutoff=0.8)
    if key not in KNOWN and close:
        raise ConfigError(f"--slurm: unknown key {key!r}: did you mean {close[0]!r}?")


def check_executor(name: str, items: Sequence[str], experiments: Sequence[Experiment]) -> None:
    """Raise ConfigError, before anything is done, where runs can't go by an executor; items: of --slurm."""
    if name == LOCAL:
        nodes = max((experiment.compute.nodes for experiment in experiments), default=1)
        if nodes > 1:
            raise ConfigError(f"compute.nodes: got {nodes}, wanted 1 without --executor slurm")
        return
    read_slurm_options(items)
    if importlib.util.find_spec("submitit") is None:
        package = "'lavita[slurm]'" if checkout() is None else "-e '.[slurm]'"
        raise ConfigError(f"--executor slurm: submitit is not installed: pip install {package}")
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise ConfigError(
            f"--executor slurm: no {missing[0]} on PATH; give the command on a login node of the cluster, or "
            "without --executor slurm to run here"
        )
