"""A real Slurm of two nodes on this machine, and runs on it."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.soak.runs import defaults

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scancel")
PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
TINY = [
    "data.latent_cache=false",
    "budget.clips=480", "codec.clips=32", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4",
    "protocol.n_real=8", "protocol.n_generated=8", "checkpoint.every_clips=32",
]  # fmt: skip
# What is measured, and differs between any two runs.
MEASURED = (
    "wall_seconds", "accelerator_seconds", "peak_bytes", "sampling_seconds_per_clip", "hardware", "started_at",
)  # fmt: skip


def why_not() -> str:
    """Why there can be no cluster here, or ""."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PLACES) is None]
    if missing:
        return f"{', '.join(missing)} not installed: as root, `make slurm` installs Slurm and munge"
    return "" if os.geteuid() == 0 else "a Slurm of one's own needs root"


@contextmanager
def started() -> Iterator[Cluster]:
    """A cluster for as long as the context. Raises RuntimeError where it does not come up."""
    folder = Path(tempfile.mkdtemp(prefix="lavita-slurm-"))
    folder.chmod(0o755)  # munge's socket must be reached by everybody
    start = str(Path(__file__).with_name("start.sh"))
    process, cluster = subprocess.Popen([start, str(folder)], env=os.environ | {"PATH": PLACES}), Cluster(folder)
    try:
        try:
            wait_until((folder / "up").exists, 40, "Slurm to come up")
        except RuntimeError as error:
            logs = "\n".join(path.read_text(errors="replace")[-800:] for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"{error}\n{logs}") from None
        yield cluster
    finally:
        for run in cluster.runs:
            run.process.kill()
        process.terminate()
        process.wait(timeout=40)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Raise RuntimeError where something does not come true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:g} s for {what}")
        time.sleep(0.2)


class Cluster:
    """Commands of a cluster, and runs on it."""

    def __init__(self, folder: Path) -> None:
        self.runs: list[Run] = []
        self.settings = folder / "slurm.conf"
        self.environment = os.environ | {
            "PATH": PLACES,
            "SLURM_CONF": str(self.settings),
            "OMP_NUM_THREADS": "1",
            # Both nodes are this machine, and their names mean nothing outside of Slurm.
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def say(self, *words: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    def running(self) -> list[str]:
        """The ids of the jobs that run."""
        return self.say("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i").split()

    def left(self) -> list[str]:
        """The ids of the jobs that wait or run."""
        return self.say("squeue", "--noheader", "--array", "--format=%i").split()

    def take(self, *where: str) -> str:
        """A job of the high partition that wants whole nodes for some seconds; its id."""
        words = ("sbatch", "--parsable", "--partition=high", "--exclusive", "--time=1", "--output=/dev/null", *where)
        return self.say(*words, "--wrap=sleep 2")

    def change(self, before: str, after: str) -> None:
        """Other settings, from now on."""
        self.settings.write_text(self.settings.read_text().replace(before, after))
        self.say("scontrol", "reconfigure")

    def start(self, out: Path, *more: str) -> Run:
        """A run of lavita-v1 and dit, or of what more says, as jobs."""
        self.runs.append(Run(out, self.environment, "--executor", "slurm", *more))
        return self.runs[-1]


class Run:
    """A suite of tiny runs while it is at work."""

    def __init__(self, out: Path, environment: dict[str, str], *more: str) -> None:
        self.out = out
        self.command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101", "--tier", "demo"]
        if "--methods" not in more:
            self.command += ["--methods", "lavita-v1,dit"]
        self.command += ["--out", str(out), "--cache", str(out.parent / "cache"), *TINY, *more]
        self.environment = environment
        self.log = out.parent / f"{out.name}.log"
        self.go()

    def go(self) -> None:
        """Give the command, once more where it has ended."""
        with open(self.log, "a") as log:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(self.command, env=self.environment, preexec_fn=defaults, **pipes)

    def end(self, code: int = 0, seconds: float = 240) -> str:
        """Wait for its end; what it has said. Raises AssertionError for another exit status."""
        got = self.process.wait(timeout=seconds)
        assert got == code, f"exit status {got}\n{self.log.read_text()}"
        return self.log.read_text()

    def until_trained(self, *cells: str, steps: int = 10) -> None:
        """Wait until each run has made some steps of training, of the 56 that it makes."""
        for cell in cells:
            path = self.out / "cells" / cell / "steps.csv"
            wait_until(
                lambda path=path: path.is_file() and path.read_text().count("\ntrain,") >= steps or self.has_ended(),
                90,
                f"{cell} to train",
            )

    def has_ended(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the run has ended\n{self.log.read_text()}")
        return False


def rows(out: Path, method: str | None = None) -> list[dict[str, str]]:
    """The rows of a run, or of one of its methods, without what is measured."""
    with open(out / "rows.csv", newline="") as file:
        found = list(csv.DictReader(file))
    return [
        {key: value for key, value in row.items() if key not in MEASURED}
        for row in found
        if method in (None, row["method"])
    ]
