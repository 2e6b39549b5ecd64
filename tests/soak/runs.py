"""Runs of benchmarks/run.py as the tests of this folder start, watch and compare them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from lavita.data.clip_folder import read_clips

ROOT = Path(__file__).resolve().parents[2]
# What is measured, and so differs between two runs of the same: of rows.csv, and of table.csv.
MEASURED = (
    "wall_seconds", "accelerator_seconds", "peak_bytes", "sampling_seconds_per_clip", "started_at", "hardware",
)  # fmt: skip
STARTED: list[subprocess.Popen] = []
MEASURED_IN_TABLE = ("wall (s)", "sampling (s/clip)", "peak (GiB)", "digest")  # a digest is of all, seconds included


def command(out: Path, cache: Path, *arguments: str) -> list[str]:
    """The words of a run of the suite ucf101 on the videos that the code draws."""
    start = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101", "--tier", "demo"]
    return [*start, "--out", str(out), "--cache", str(cache), *arguments]


def defaults() -> None:
    """A process that a shell has put in the background ignores Ctrl-C; one that a person looks at does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(words: Sequence[str], said: Path, more: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Start a run; what it says is added to a file."""
    with open(said, "a") as file:
        process = subprocess.Popen(
            list(words),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(more or {}),
            preexec_fn=defaults,
        )
    STARTED.append(process)
    return process


def end_started() -> None:
    """End the runs that a test has left; what they have started ends with them."""
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def run(words: Sequence[str], more: Mapping[str, str] | None = None, limit: float = 900) -> subprocess.CompletedProcess:
    """A run to its end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(more or {})
    return subprocess.run(
        list(words), capture_output=True, text=True, timeout=limit, cwd=ROOT, env=environment, preexec_fn=defaults
    )


def state_of(pid: int) -> str:
    """The letter that Linux gives the state of a process (T stopped, Z dead and not yet collected, ...), or ""."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return state_of(pid) not in ("", "Z", "X")


def wait_for(what, seconds: float, every: float = 0.02):
    """What a function gives once that is true; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(every)
    raise TimeoutError(f"not within {seconds:g} s: {what}")


def children(pid: int) -> dict[int, list[str]]:
    """The processes that a run has started, with the words of each; a child stands under the thread that started it."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            numbers = [int(number) for number in path.read_text().split()]
        except OSError:
            continue
        for number in numbers:
            try:
                found[number] = Path(f"/proc/{number}/cmdline").read_bytes().decode().split("\0")[:-1]
            except OSError:
                continue
    return found


def processes_of(pid: int) -> dict[str, int]:
    """The processes of a suite's runs by the names of the runs' folders."""
    found = children(pid)
    return {
        Path(words[words.index("lavita.experiment.run") + 1]).name: number
        for number, words in found.items()
        if "lavita.experiment.run" in words
    }


def table(path: Path, without: Sequence[str]) -> list[dict[str, str]]:
    """The lines of a CSV without some columns."""
    with open(path, newline="") as file:
        return [{key: value for key, value in line.items() if key not in without} for line in csv.DictReader(file)]


def steps_of(cell: Path) -> list[list[str]]:
    """steps.csv without its seconds."""
    lines = [line.split(",") for line in (cell / "steps.csv").read_text().splitlines()]
    return [line[:3] + line[4:] for line in lines]


def scalars_of(cell: Path) -> list[tuple[str, int, float]]:
    """Every scalar of a run's event files as it was written, repeats and all."""
    files = [RawEventFileLoader(str(path)) for path in (cell / "tensorboard").rglob("events.*")]
    events = [Event.FromString(raw) for file in files for raw in file.Load()]
    return sorted((value.tag, event.step, value.simple_value) for event in events for value in event.summary.value)


def leftovers(run: Path) -> list[str]:
    """What nothing but an unfinished run may hold."""
    found = [path for path in run.rglob("*") if path.suffix == ".part" or path.name == "progress"]
    found += [path for path in run.rglob(".*") if path.name != ".lock"]
    return sorted({path.relative_to(run).as_posix() for path in found})


def assert_same_run(found: Path, expected: Path, cells: Sequence[str] | None = None) -> None:
    """Two results folders are the same but for what is measured: tables, and of every run (or of some) weights,
    samples, step logs and scalars, the last without repeats."""
    names = sorted(path.name for path in (expected / "cells").iterdir()) if cells is None else list(cells)
    assert not different(rows_of(found, names), rows_of(expected, names))
    if cells is None:
        assert not different(*(table(run / "table.csv", MEASURED_IN_TABLE) for run in (found, expected)))
        assert sorted(path.name for path in (found / "cells").iterdir()) == names
    for name in names:
        assert_same_attempt(found / "cells" / name, expected / "cells" / name)


def different(found: Sequence[Mapping[str, str]], expected: Sequence[Mapping[str, str]]) -> list[str]:
    """Where two tables differ, in words."""
    if len(found) != len(expected):
        return [f"{len(found)} lines, {len(expected)} wanted"]
    pairs = enumerate(zip(found, expected, strict=True), start=1)
    return [f"line {n}, {key}: {a[key]} != {b[key]}" for n, (a, b) in pairs for key in b if a[key] != b[key]]


def rows_of(run: Path, cells: Sequence[str]) -> list[dict[str, str]]:
    return [row for row in table(run / "rows.csv", MEASURED) if row["cell"] in cells]


def assert_same_attempt(a: Path, b: Path) -> None:
    """Two runs' folders hold the same but for what is measured."""
    assert (a / "checkpoint.safetensors").read_bytes() == (b / "checkpoint.safetensors").read_bytes(), a
    assert np.array_equal(read_clips(a / "samples"), read_clips(b / "samples")), a
    assert steps_of(a) == steps_of(b), a
    found = scalars_of(a)
    assert len({(tag, step) for tag, step, _ in found}) == len(found) > 0, a
    assert found == scalars_of(b), a
    one, other = (json.loads((cell / "record.json").read_text()) for cell in (a, b))
    assert one["heldout_losses"] == other["heldout_losses"], a
    assert [bare(stage) for stage in one["stages"]] == [bare(stage) for stage in other["stages"]], a


def bare(stage: Mapping[str, object]) -> dict[str, object]:
    """A stage of a record without its seconds."""
    return {key: value for key, value in stage.items() if key not in ("seconds", "speed")}
