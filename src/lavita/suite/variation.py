"""How far scores of one command differ where it alone should decide: numbers of threads, instruction sets.

Float32 sums depend on their order, which threads and vector widths change, and training lets the last bits grow.
"""

from __future__ import annotations

import csv
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from lavita.config.schema import ConfigError
from lavita.executors.process import environment_of_processes
from lavita.results.rows import csv_text, shown, text_of

# What torch, oneDNN and MKL are told to leave unused. MKL heeds MKL_ENABLE_INSTRUCTIONS on Intel's processors alone,
# MKL_CBWR on all.
INSTRUCTIONS: dict[str, dict[str, str]] = {
    "native": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "AVX2",
    },
    "sse": {
        "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
    },
}  # fmt: skip
# A small part of the demo's budget: says that the command works, and little of how far full runs differ.
REDUCED = ("budget.clips=256", "codec.clips=64", "train.warmup_clips=16")
# Two runs differ by 1.4 standard deviations of one: by four, one pair in two hundred does.
DEVIATIONS_ALLOWED = 4


@dataclass(frozen=True)
class Setting:
    """Threads of a run's process, and which instructions it may use: a key of INSTRUCTIONS."""

    threads: int
    instructions: str

    @property
    def name(self) -> str:
        return f"{self.instructions}-{self.threads}"


@dataclass(frozen=True)
class Varied:
    """A score in all settings. cell: the run, <method>[-<choice>]-s<seed>; clips: that its training saw; lowest,
    highest: values; spread: their standard deviation as a share of their mean, None where that is 0; allowed: the share
    by which a printed value may differ from that of another machine. A few runs say little of one row's spread, so
    allowed comes from the spreads of all rows of the same stage and metric. protocols: how many there were, since an
    extractor that each run fits anew makes another of each.
    """

    dataset: str
    cell: str
    stage: str
    metric: str
    clips: str
    runs: int
    lowest: float
    highest: float
    spread: float | None
    allowed: float | None
    protocols: int
    commit: str


def settings(text: str) -> list[Setting]:
    """Settings by name: "avx2-1,sse-2". Raises ConfigError."""
    found = []
    for name in text.split(","):
        instructions, _, threads = name.partition("-")
        if instructions not in INSTRUCTIONS or not threads.isdigit() or not int(threads):
            known = ", ".join(INSTRUCTIONS)
            raise ConfigError(f"--settings: got {name!r}, wanted {known} with a number of threads, for example sse-2")
        found.append(Setting(int(threads), instructions))
    if len(found) < 2:
        raise ConfigError("--settings: got one, wanted two or more to compare")
    return found


def run_all(chosen: Sequence[Setting], words: Sequence[str], out: Path, say: Callable[[str], None]) -> list[Path]:
    """Run `lavita run` with these words under each setting, one after the other; returns each one's rows.csv.

    Each has its own results and cache below out, so that everything is fitted anew; what is finished is not run again.
    Raises ValueError where one fails.
    """
    found = []
    for number, one in enumerate(chosen, start=1):
        folder = out / one.name
        say(f"{number} of {len(chosen)}: {one.threads} threads, instructions {one.instructions}; log in {folder}.log")
        command = [sys.executable, "-m", "lavita", "run", *words, f"compute.threads={one.threads}"]
        out.mkdir(parents=True, exist_ok=True)
        environment = environment_of_processes(INSTRUCTIONS[one.instructions])
        with open(f"{folder}.log", "a", encoding="utf-8") as log:
            done = subprocess.run(
                [*command, "--out", str(folder), "--cache", str(out / f"{one.name}-cache")],
                stdout=log, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip
        if done.returncode:
            last = Path(f"{folder}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise ValueError(f"{one.name}: the run ended with status {done.returncode}: {' '.join(last)}")
        found.append(folder / "rows.csv")
    return found


def varied(files: Sequence[Path]) -> list[Varied]:
    """What the scores of several runs of one command come to, in the order of the first. Raises ValueError where a run
    lacks a score of the first.
    """
    runs = [scores(path) for path in files]
    found = []
    for key, first in runs[0].items():
        missing = [path for path, run in zip(files, runs, strict=True) if key not in run]
        if missing:
            raise ValueError(f"{missing[0]}: no score {' '.join(key)}, which {files[0]} has")
        rows = [run[key] for run in runs]
        values = [float(row["value"]) for row in rows]
        found.append(
            Varied(
                first["dataset"], *key, first["clips_seen"], len(rows), min(values), max(values), spread_of(values),
                None, len({row["protocol_hash"] for row in rows}), first["commit"],
            )
        )  # fmt: skip
    return [replace(one, allowed=allowed(alike(one, found))) for one in found]


def alike(one: Varied, found: Sequence[Varied]) -> list[float]:
    """The spreads of the scores of one's stage and metric."""
    same = (other for other in found if (other.stage, other.metric) == (one.stage, one.metric))
    return [other.spread for other in same if other.spread is not None]


def scores(path: Path) -> dict[tuple[str, str, str], Mapping[str, str]]:
    """The rows of a rows.csv that are better or worse, by run, stage and metric."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["value"] and row["lower_is_better"]]
    return {(row["cell"], row["stage"], row["metric"]): row for row in rows}


def spread_of(values: Sequence[float]) -> float | None:
    """Standard deviation (of n - 1) as a share of the mean's size; None where that is 0 and they differ."""
    deviation, mean = statistics.stdev(values), abs(statistics.fmean(values))
    if not deviation:
        return 0.0
    return deviation / mean if mean else None


def allowed(spreads: Sequence[float]) -> float | None:
    """DEVIATIONS_ALLOWED times the root of the mean square of spreads, rounded up to whole percent; 0 stays 0."""
    if not spreads:
        return None
    pooled = math.sqrt(statistics.fmean(spread**2 for spread in spreads))
    return math.ceil(round(100 * DEVIATIONS_ALLOWED * pooled, 6)) / 100


def table(found: Sequence[Varied]) -> str:
    """As people read it, in Markdown."""
    lines = [
        "| run | stage | metric | lowest | highest | standard deviation | allowed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        spread = "" if one.spread is None else f"{one.spread:.2%}"
        may = "" if one.allowed is None else f"± {one.allowed:.0%}"
        cells = (one.cell, one.stage, one.metric, shown(one.lowest), shown(one.highest), spread, may)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_csv(found: Sequence[Varied]) -> str:
    """The same at full precision."""
    lines = [[text_of(value) for value in asdict(one).values()] for one in found]
    return csv_text([[field.name for field in fields(Varied)], *lines])
