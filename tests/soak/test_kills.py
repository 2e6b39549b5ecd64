"""Sixty times SIGKILL over runs of eight methods: nothing that is kept is lost, and the table is that of a quiet run.

Killed are single processes of runs (the row then says failed, and --retry-failed resumes) and whole suites, at moments
that are looked for (in a checkpoint's write, in sampling, in scoring, in a stage) and at random ones.
"""

from __future__ import annotations

import csv
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lavita.executors.heartbeat import HEARTBEAT, Beat, read_heartbeat
from lavita.results.records import read_record
from tests.soak.runs import (
    assert_same_run,
    children,
    command,
    is_alive,
    leftovers,
    processes_of,
    run,
    start,
    state_of,
    wait_for,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked at in /proc")

EVERY, BATCH = 16, 8
SETTING = [
    "data.latent_cache=false",
    "budget.clips=192", "codec.clips=64", f"checkpoint.every_clips={EVERY}", "train.warmup_clips=8",
    "extractor.steps=4", "sampling.steps=4", "sampling.batch_clips=4", "protocol.n_real=24", "protocol.n_generated=24",
    "model.autoencoder_share=0.3", "model.adversarial_share=0.2",
]  # fmt: skip
METHODS = ["pvdm", "lavita-v1", "lavita-v2", "lavita-v3", "lavita-v4", "dit", "dit-joint", "vdt"]
RUN = ["--methods", ",".join(METHODS), "--workers", "2"]
COLUMNS = ["number", "cell", "killed", "aim", "stage", "clips_logged", "clips_kept", "part_file", "resumed_from"]
SIT_SECONDS = 6.0  # random moments lie within so much of a process's life, which is 7 seconds or more
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Place:
    """Where a run's process is, as its folder says it: stage, clips of it that steps.csv holds, clips of it that are
    kept (by its newest checkpoint, or all where its end is), and the checkpoint that is just being written, if any."""

    stage: str
    clips_logged: float
    clips_kept: float
    part: str


NAME = re.compile(r"at-(?P<stage>.+)-(?P<clips>[0-9.]{18})\.(?P<hash>[0-9a-f]{16})\.ckpt")
PART = re.compile(r"\.at-(?P<stage>.+)-(?P<clips>[0-9.]{18})\.ckpt\.(?P<pid>[0-9]+)\.part")


def part_of(cell: Path, pid: int) -> str:
    """The checkpoint's file that a process is writing, or ""."""
    found = [entry.name for entry in os.scandir(cell / "progress")] if (cell / "progress").is_dir() else []
    return next((name for name in found if (part := PART.fullmatch(name)) and int(part["pid"]) == pid), "")


def place_of(cell: Path, pid: int) -> Place:
    """Read a run's folder, whose process stands still or is dead."""
    progress, part = cell / "progress", part_of(cell, pid)
    heartbeat = read_heartbeat(progress / HEARTBEAT)
    kept = sorted((name for path in progress.glob("at-*.ckpt") if (name := NAME.fullmatch(path.name))), key=clips)
    stage = PART.fullmatch(part)["stage"] if part else stage_of(progress, heartbeat, kept)
    done = logged(cell, stage)
    if any(progress.glob(f"end-{stage}.*.pt")):
        return Place(stage, done, done, part)
    return Place(stage, done, max((clips(k) for k in kept if k["stage"] == stage), default=0.0), part)


def clips(name: re.Match) -> float:
    return float(name["clips"])


def stage_of(progress: Path, heartbeat: Beat | None, kept: list[re.Match]) -> str:
    """The heartbeat's stage, or that of the checkpoints where these are newer: training beats only now and then."""
    newest = max((progress / name.string for name in kept), key=lambda path: path.stat().st_mtime_ns, default=None)
    last = progress / HEARTBEAT
    if newest is not None and last.exists() and newest.stat().st_mtime_ns > last.stat().st_mtime_ns:
        return NAME.fullmatch(newest.name)["stage"]
    return "" if heartbeat is None else heartbeat.stage


def logged(cell: Path, stage: str) -> float:
    """Clips of a stage at the last whole line of steps.csv: what is known to have been done."""
    text = (cell / "steps.csv").read_text() if (cell / "steps.csv").exists() else ""
    lines = [line.split(",") for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return max((float(line[2]) for line in lines if line[0] == stage), default=0.0)


@dataclass(frozen=True)
class Aim:
    """A moment of a run's process: kind for the counts; ready(its folder, its id, seconds of its life)."""

    kind: str
    ready: Callable[[Path, int, float], bool]
    whole_run: bool = False


def writing(stage: str = "") -> Callable[[Path, int, float], bool]:
    """In the write of a checkpoint, of a stage or of any."""

    def ready(cell: Path, pid: int, _: float) -> bool:
        part = part_of(cell, pid)
        return bool(part) and PART.fullmatch(part)["stage"] == (stage or PART.fullmatch(part)["stage"])

    return ready


def heartbeat_says(stage: str, below: int) -> Callable[[Path, int, float], bool]:
    """In sampling or scoring, before so many clips are done."""

    def ready(cell: Path, _pid: int, _seconds: float) -> bool:
        beat = read_heartbeat(cell / "progress" / HEARTBEAT)
        return beat is not None and beat.stage == stage and beat.done < below

    return ready


def in_stage(stage: str) -> Callable[[Path, int, float], bool]:
    """Between two checkpoints of a stage."""

    def ready(cell: Path, pid: int, _: float) -> bool:
        return place_of(cell, pid).stage == stage and not part_of(cell, pid)

    return ready


def after(seconds: float) -> Callable[[Path, int, float], bool]:
    return lambda _cell, _pid, life: life > seconds


def aims_of(method: str, rng: random.Random) -> list[Aim]:
    """What a cell's processes are killed at, one after the other, in the order of its life. All but pvdm take their
    untrained clips from whichever of them made these first."""
    if method == "pvdm":
        return [
            Aim("sampling", heartbeat_says("sample untrained", 24)),
            Aim("checkpoint write", writing("autoencoder")),
            Aim("stage", in_stage("autoencoder")),
            Aim("checkpoint write", writing("autoencoder-gan")),
            Aim("stage", in_stage("autoencoder-gan")),
            Aim("checkpoint write", writing("train")),
            Aim("sampling", heartbeat_says("sample", 24)),
        ]
    return [
        Aim("random", after(rng.uniform(0.5, SIT_SECONDS / 5))),
        Aim("checkpoint write", writing("train")),
        Aim("stage", in_stage("train"), whole_run=method in ("dit", "lavita-v2")),
        Aim("checkpoint write", writing("train"), whole_run=method in ("vdt", "lavita-v3")),
        Aim("random", after(rng.uniform(0.5, SIT_SECONDS)), whole_run=method == "dit-joint"),
        Aim("sampling", heartbeat_says("sample", 24), whole_run=method == "lavita-v4"),
        Aim("scoring", heartbeat_says("score of sample", 25)),
    ]


@dataclass
class Hunt:
    """Kills what a run has started as its aims say, and keeps a line of each."""

    out: Path
    said: Path
    aims: dict[str, list[Aim]]
    words: list[str]
    kills: list[dict[str, Any]] = field(default_factory=list)
    began: dict[int, float] = field(default_factory=dict)

    def session(self) -> int:
        """One run from its start until it ends or is killed; its exit status."""
        process = start(self.words, self.said)
        done: set[int] = set()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None:
            assert time.monotonic() < deadline, self.said.read_text()[-3000:]
            for name, pid in processes_of(process.pid).items():
                if pid not in done and self.killed(process, name, pid):
                    done.add(pid)
                if process.poll() is not None:
                    break
            time.sleep(0.008)
        return process.returncode

    def spare_finished(self) -> None:
        """Forget the aims of runs that ended before they were met: a random moment may come too late."""
        for name, aims in self.aims.items():
            record = read_record(self.out / "cells" / name)
            if record and record.status == "ok":
                aims.clear()

    def killed(self, process: subprocess.Popen, name: str, pid: int) -> bool:
        """Kill a run's process, or the whole suite, where it is at the next of its aims."""
        self.began.setdefault(pid, time.monotonic())
        aims, cell = self.aims[name], self.out / "cells" / name
        if not aims or not aims[0].ready(cell, pid, time.monotonic() - self.began[pid]):
            return False
        if not halted(pid) or not aims[0].ready(cell, pid, time.monotonic() - self.began[pid]):
            continue_process(pid)
            return False
        aim, place = aims.pop(0), place_of(cell, pid)
        assert is_alive(pid)
        if aim.whole_run:
            others = list(children(process.pid))
            assert pid in others and is_alive(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
            ended_with_their_run(others)
        else:
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not is_alive(pid), 20)
        self.note(name, "run" if aim.whole_run else "cell", aim.kind, place)
        return True

    def note(self, name: str, killed: str, aim: str, place: Place) -> None:
        line = {"number": len(self.kills) + 1, "cell": name, "killed": killed, "aim": aim, "resumed_from": ""}
        line |= {"stage": place.stage, "clips_logged": place.clips_logged, "clips_kept": place.clips_kept}
        self.kills.append(line | {"part_file": place.part})


def ended_with_their_run(pids: list[int]) -> None:
    """Wait until processes have ended whose run was killed; no hand of ours may be needed."""
    time.sleep(0.2)
    for pid in pids:
        continue_process(pid)  # one that was stopped before it had told the kernel ends as soon as it looks
    wait_for(lambda: not any(is_alive(pid) for pid in pids), 20)


def halted(pid: int) -> bool:
    """Stop a process, so that what it is about can be looked at; False where it has ended."""
    try:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: state_of(pid) in ("T", "t", "Z", ""), 10, every=0.001)
    except (ProcessLookupError, TimeoutError):
        return False
    return state_of(pid) in ("T", "t")


def continue_process(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass


RESUMES = re.compile(r'"text": "(?P<stage>[a-z-]+): resumes from (?P<clips>[0-9.]+) clips"')


def resumed(log: Path) -> Iterator[tuple[str, float]]:
    """The stages that the processes of a run say they resumed, and from which clips, in the order of its log."""
    for found in RESUMES.finditer(log.read_text()):
        yield found["stage"], float(found["clips"])


@pytest.fixture(scope="module")
def quiet(tmp_path_factory) -> Path:
    """The run that nothing happens to."""
    base = tmp_path_factory.mktemp("quiet")
    done = run(command(base / "out", base / "cache", *RUN, *SETTING))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed (" in done.stdout
    return base / "out"


def fitting(run_pid: int) -> list[int]:
    """The process that fits what the runs of a suite share."""
    return [pid for pid, words in children(run_pid).items() if "lavita.experiment.shared" in words]


def kept_of_codec(cache: Path) -> set[str]:
    """The checkpoints of an autoencoder that is being trained."""
    return {path.name for path in cache.glob(".codec-*.part/progress/at-codec-*.ckpt")}


def kill_shared_parts(words: list[str], said: Path, cache: Path) -> int:
    """Kill the autoencoder's training after a checkpoint, once alone and once with its suite; returns 2."""
    for alone in (True, False):
        before = kept_of_codec(cache)
        process = start(words, said)
        (pid,) = wait_for(lambda process=process: fitting(process.pid), 60)
        wait_for(lambda before=before: kept_of_codec(cache) - before, 240, every=0.005)
        assert halted(pid) and is_alive(pid) and any(cache.glob(".codec-*.part"))
        if alone:
            os.kill(pid, signal.SIGKILL)
            assert process.wait(timeout=60) == 2
            assert "the process was ended by signal 9" in said.read_text()
        else:
            process.send_signal(signal.SIGKILL)
            process.wait()
            ended_with_their_run([pid])
    return 2


def test_kills_lose_nothing(quiet, tmp_path, capsys):
    began = time.monotonic()
    out, cache, said = tmp_path / "out", tmp_path / "cache", tmp_path / "said.txt"
    words = command(out, cache, *RUN, "--retry-failed", *SETTING)
    of_shared = kill_shared_parts(words, said, cache)
    rng = random.Random(14)
    hunt = Hunt(out, said, {f"{method}-s0": aims_of(method, rng) for method in METHODS}, words)
    statuses = [hunt.session()]
    while any(hunt.aims.values()) or statuses[-1] != 0:
        assert len(statuses) < 40, said.read_text()[-3000:]
        statuses.append(hunt.session())
        hunt.spare_finished()
    write_log(tmp_path / "kills.csv", hunt.kills)
    check_resumed(hunt)
    write_log(tmp_path / "kills.csv", hunt.kills)

    assert_same_run(out, quiet)
    assert " 0 failed (" in said.read_text()[-3000:]
    assert leftovers(out) == []
    assert not list(cache.rglob("*.part"))
    assert_counts(hunt.kills, of_shared)
    with capsys.disabled():
        print(f"\n{summary(hunt.kills, of_shared, statuses, time.monotonic() - began)}")


def check_resumed(hunt: Hunt) -> None:
    """What was in the log at a kill and not resumed from is lost: at most what lies between two checkpoints, and as
    much again where the second was being written."""
    for name in hunt.aims:
        later = list(resumed(hunt.out / "cells" / name / "log.txt"))
        for kill in (kill for kill in hunt.kills if kill["cell"] == name and kill["clips_logged"]):
            ended = kill["clips_kept"] == kill["clips_logged"]
            mine = [found for stage, found in later if stage == kill["stage"]]
            assert ended or kill["clips_kept"] in [0.0, *mine], (kill, later)
            kill["resumed_from"] = kill["clips_kept"]
            assert kill["clips_logged"] - kill["resumed_from"] <= 2 * EVERY + BATCH, kill


def write_log(path: Path, kills: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kills)


def assert_counts(kills: list[dict[str, Any]], of_shared: int) -> None:
    kinds = Counter(kill["aim"] for kill in kills)
    assert len(kills) + of_shared >= 50
    assert kinds["checkpoint write"] >= 5 and all(k["part_file"] for k in kills if k["aim"] == "checkpoint write")
    assert kinds["sampling"] >= 5 and kinds["scoring"] >= 5
    assert {kill["stage"] for kill in kills if kill["cell"] == "pvdm-s0"} >= {"autoencoder", "autoencoder-gan", "train"}
    assert {kill["cell"] for kill in kills} == {f"{method}-s0" for method in METHODS}


def summary(kills: list[dict[str, Any]], of_shared: int, statuses: list[int], seconds: float) -> str:
    """The counts in words."""

    def counted(key: str) -> str:
        counts = Counter(kill[key] or "start" for kill in kills)
        return ", ".join(f"{count} {value}" for value, count in counts.items())

    lost = [kill["clips_logged"] - kill["resumed_from"] for kill in kills if kill["resumed_from"] != ""]
    return (
        f"{len(kills) + of_shared} kills in {len(statuses) + of_shared} runs, {seconds:.0f} s: {of_shared} in the "
        f"training of the autoencoder; by aim {counted('aim')}; by what was killed {counted('killed')}; "
        f"by stage {counted('stage')}; at most {max(lost):g} logged clips lost of {EVERY} between two checkpoints"
    )
