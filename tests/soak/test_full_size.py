"""Tier paper on a CPU with no network replaced, made small by its configuration alone; and a data set of UCF101's size
with as many generated clips as the protocol scores, with tiny networks.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lavita.results.records import read_record
from lavita.speed import rehearsal
from lavita.speed.stand_ins import write_ucf101

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
# On two cores without AVX-512 it takes 35 minutes of processor time; after this it hangs.
HANGING_MINUTES, MOST_BYTES = 60, 24 * GIB
# No loader processes: each would keep the memory that the run had when it began, weights and average, which on a CPU
# are then changed. I3D halves time three times: no clip is shorter. Two clips of training, two steps of sampling; four
# clips of the untrained network and four of the trained one are scored, the fewest that a score takes.
FRAMES = 9
SMALL = [
    f"data.frames={FRAMES}", f"protocol.frames={FRAMES}", "budget.clips=2", "train.batch_clips=2", "sampling.steps=2",
    "sampling.batch_clips=2", "protocol.n_real=4", "protocol.n_generated=4", "protocol.is_splits=1",
    "compute.threads=2", "compute.checkpoint_activations=true", "data.num_workers=0", "data.latent_cache=false",
]  # fmt: skip
# Without instructions for it, bfloat16 takes a CPU several times as long as float32.
FAST_BF16 = ("avx512_bf16", "amx_bf16")
FLOAT32 = ["compute.precision=32-true", "sampling.precision=32-true"]
# Tensors of 64 MiB and more go back to the kernel at once, so that another long test has room beside this one.
SMALL_HEAP = {"MALLOC_MMAP_THRESHOLD_": str(2**26)}
# Fold 1 of UCF101, and the protocol's number of clips.
TRAIN, HELDOUT, CLIPS = 9537, 3783, 2048
TINY_BYTES = 2 * GIB
TINY = [
    "data.frames=4", "protocol.frames=4", "data.interval=1", "protocol.real_interval=1",
    "protocol.generated_interval=1", "budget.clips=96", "codec.clips=32", "train.warmup_clips=8", "extractor.steps=4",
    "sampling.steps=1", "sampling.batch_clips=64", f"protocol.n_real={CLIPS}", f"protocol.n_generated={CLIPS}",
]  # fmt: skip


@dataclass(frozen=True)
class Done:
    """A command that has ended: its status, what it said, seconds, and the largest resident set of a process of it."""

    status: int
    said: str
    seconds: float
    peak_bytes: int


def run(words: Sequence[str], said: Path, minutes: float) -> Done:
    """A command to its end. Raises TimeoutError."""
    began = time.monotonic()
    with said.open("w") as file:
        process = subprocess.Popen(
            list(words), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=rehearsal.environment() | SMALL_HEAP
        )
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() - began > 60 * minutes:
                    raise TimeoutError(f"not done after {minutes} minutes:\n{said.read_text()[-3000:]}")
                time.sleep(0.5)
        finally:
            if process.poll() is None:
                process.terminate()  # it ends what it has started
                process.wait()
    process.returncode = os.waitstatus_to_exitcode(status)
    # The largest process of the tree: of those that a waited-for child has waited for, too. In KiB on Linux.
    return Done(process.returncode, said.read_text(), time.monotonic() - began, usage.ru_maxrss * 1024)


def report(name: str, done: Done) -> None:
    """What a person wants to know of a long test; pytest prints it with -rP, and where it fails."""
    print(f"{name}: {done.seconds / 60:.1f} min, largest process {done.peak_bytes / GIB:.2f} GiB")


def arithmetic() -> list[str]:
    """What the configuration must say so that this machine's networks compute in minutes."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.is_file() else []
    return [] if any(flag in flags for flag in FAST_BF16) else FLOAT32


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The default command on four short videos, with random weights in the published shapes."""
    base = tmp_path_factory.mktemp("full-size")
    inputs = rehearsal.write_inputs(base / "inputs", train=4, heldout=1, frames=26, clip_frames=FRAMES)
    words = rehearsal.command(inputs, base / "out", base / "cache", [*SMALL, *arithmetic()])
    done = run(words, base / "said.txt", HANGING_MINUTES)
    report("tier paper", done)
    assert done.status == 0, done.said[-3000:]
    return base / "out", done


def test_the_published_setting_ends_with_a_table_row(rehearsed):
    out, done = rehearsed
    with open(out / "table.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["method"] == "lavita-v1" and float(row[next(key for key in row if key.startswith("fvd_"))]) >= 0
    assert done.peak_bytes < MOST_BYTES


def test_no_network_was_replaced(rehearsed):
    record = read_record(rehearsed[0] / "cells" / rehearsal.CELL)
    experiment = record.experiment()
    assert (experiment.tier, experiment.data.resolution, experiment.model["size"]) == ("paper", 256, "XL")
    assert experiment.codec.kind == "kl" and experiment.protocol.extractor == "i3d"
    # XL/2 with its learned tables left out: 28 blocks of 18 D^2 weights and what stands around them.
    assert 670e6 < record.row.params_trained < 680e6
    metrics = {score.metric.split("_")[0] for score in record.scores}
    assert {"fvd", "rfvd", "psnr", "ssim"} <= metrics


def test_the_stages_are_timed(rehearsed):
    found = {one.name: one.value for one in rehearsal.stages(rehearsed[0])}
    print("\n".join(f"{name}: {value:.4g}" for name, value in found.items()))
    assert found["stage train"] > 0 and found["sampling (train)"] > 0 and "sampling (untrained)" not in found


def test_its_audit_has_no_failure(rehearsed):
    words = [sys.executable, str(ROOT / "benchmarks" / "audit.py"), str(rehearsed[0])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " checks, 0 failed; " in done.stdout, done.stdout


def test_all_videos_and_all_clips_end_in_minutes(tmp_path):
    root = write_ucf101(tmp_path / "videos", TRAIN, HELDOUT, frames=8, files=64, side=48)
    words = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101", "--tier", "demo"]
    words += ["--methods", "lavita-v1", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    done = run([*words, f"data.root={root}", *TINY], tmp_path / "said.txt", HANGING_MINUTES)
    report("9,537 videos, 2,048 clips", done)
    assert done.status == 0, done.said[-3000:]
    assert done.peak_bytes < TINY_BYTES
    record = read_record(tmp_path / "out" / "cells" / rehearsal.CELL)
    assert record.status == "ok" and record.row.n_generated == CLIPS
    assert f"{TRAIN} train, {HELDOUT} heldout" in (tmp_path / "out" / "table.md").read_text()
    assert len(list((tmp_path / "out" / "cells" / rehearsal.CELL / "samples").glob("*.mkv"))) == CLIPS
