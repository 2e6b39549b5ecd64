"""A run of the published setting made small by its configuration alone: every network in its published shape."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lavita
from lavita.results.records import read_record
from lavita.speed.bench import Quantity
from lavita.speed.stand_ins import write_autoencoder, write_c3d, write_i3d, write_ucf101

CELL = "lavita-v1-s0"


@dataclass(frozen=True)
class Inputs:
    """What the run reads from outside: videos, autoencoder, feature networks."""

    root: Path
    codec: Path
    i3d: Path
    c3d: Path

    def overrides(self) -> list[str]:
        """How the configuration names them; the hash that the protocol records is that of the published file."""
        named = [f"data.root={self.root}", f"codec.path={self.codec}", f"weights.i3d={self.i3d}"]
        return [*named, f"weights.c3d={self.c3d}", "protocol.extractor_hash=null"]


def write_inputs(folder: Path, train: int, heldout: int, frames: int, clip_frames: int = 16) -> Inputs:
    """Videos of UCF101's size, so many a split, and networks with random weights; 0.7 GB."""
    folder.mkdir(parents=True, exist_ok=True)
    return Inputs(
        write_ucf101(folder / "videos", train, heldout, frames),
        write_autoencoder(folder / "autoencoder"),
        write_i3d(folder / "i3d.pt", clip_frames),
        write_c3d(folder / "c3d.pt"),
    )


def command(inputs: Inputs, out: Path, cache: Path, overrides: Sequence[str]) -> list[str]:
    """The words of the run: tier paper, one method of XL/2."""
    words = [sys.executable, "-m", "lavita", "run", "--suite", "ucf101", "--methods", "lavita-v1"]
    return [*words, "--out", str(out), "--cache", str(cache), *inputs.overrides(), *overrides]


def environment() -> dict[str, str]:
    """This process's, in which a child finds this library whether or not it is installed."""
    path = [str(Path(lavita.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(part for part in path if part)}


def run(words: Sequence[str], seconds: float) -> None:
    """The run to its end. Raises ValueError where it fails, TimeoutError where it takes longer than so many seconds."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=seconds, env=environment()
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"the run was not done after {seconds:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ValueError(f"the run ended with status {done.returncode}: {' '.join(last)}")


def stages(out: Path) -> list[Quantity]:
    """Seconds of the stages of the run in a results folder, as its record has them."""
    record = read_record(out / "cells" / CELL)
    if record is None or record.status != "ok":
        raise ValueError(f"{out}: {CELL} is {'not there' if record is None else record.status}")
    found = [Quantity(f"stage {stage.name}", stage.seconds, "s") for stage in record.stages]
    found += [
        Quantity(f"stage {stage.name}: training", stage.clips / stage.seconds, "clips/s")
        for stage in record.stages
        if stage.steps and stage.seconds
    ]
    sampling = {s.stage: s.sampling_seconds_per_clip for s in record.scores if s.sampling_seconds_per_clip is not None}
    found += [Quantity(f"sampling ({stage})", seconds, "s a clip") for stage, seconds in sampling.items()]
    if record.row.wall_seconds is not None:
        found.append(Quantity("the run's own process", record.row.wall_seconds, "s"))
    if record.row.peak_bytes is not None:
        found.append(Quantity("peak memory of it", record.row.peak_bytes / 1e9, "GB"))
    return found
