"""A run on a copy with a broken video and from a latent cache: refused, allowed, named once, counted in the row."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lavita.data import synthetic
from lavita.data.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "budget.clips=96", "codec.clips=32", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4",
    "protocol.n_real=8", "protocol.n_generated=8",
]  # fmt: skip
BROKEN = "UCF-101/BounceBall/v_BounceBall_g03_c02.avi"


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)


def record(folder: Path, cell: str) -> dict:
    return json.loads((folder / "cells" / cell / "record.json").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The synthetic UCF101 with one file cut short; a run that is refused, one that is not, and the same again."""
    base = tmp_path_factory.mktemp("data-run")
    root = write_synthetic("ucf101", base)
    (root / synthetic.MARKER).unlink()
    path = root / BROKEN
    path.write_bytes(path.read_bytes()[:-1000])
    arguments = ["--suite", "ucf101", "--tier", "demo", "--methods", "lavita-v1,pvdm", "--out", str(base / "out")]
    arguments += ["--cache", str(base / "cache"), f"data.root={root}", "data.latent_cache=true", *TINY]
    refused = run(*arguments)
    allowed = [*arguments, "data.max_unreadable=0.02"]
    return base, refused, run(*allowed), allowed


def test_above_the_cap_nothing_starts(done):
    base, refused, _, _ = done
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "1 of 64 videos can't be read, 1.56%; data.max_unreadable allows 0.50%" in refused.stderr
    assert f"{BROKEN}: truncated: " in refused.stderr


def test_under_the_cap_it_is_named_once_and_counted(done):
    base, _, allowed, _ = done
    assert allowed.returncode == 0, allowed.stdout + allowed.stderr
    assert [line.count(BROKEN) for line in allowed.stdout.splitlines() if line.startswith("  left out: ")] == [1]
    with open(base / "out" / "rows.csv", newline="") as file:
        labels = {row["dataset"] for row in csv.DictReader(file)}
    assert labels == {"ucf101 (ucf101, 63 videos, 1 unreadable left out)"}
    table = (base / "out" / "table.md").read_text()
    assert f"  * left out: {BROKEN}: truncated: " in table and "47 train, 16 heldout; fingerprint " in table
    assert str(base) not in table


def test_the_latent_cache_is_said_filled_and_on_the_ledger(done):
    base, _, allowed, _ = done
    # 47 videos of 72 frames in both directions, 16 moments of 8 x 8 each.
    frames = 47 * 72 * 2
    size = frames * 16 * 8 * 8 * 4
    assert f"latent cache: {frames} frames in both directions, {size / 2**30:.3g} GiB on disk" in allowed.stdout
    (folder,) = (base / "cache").glob("latents-*")
    assert (folder / "moments.f32").stat().st_size == size
    stages = {stage["name"]: stage for stage in record(base / "out", "lavita-v1-s0")["stages"]}
    assert list(stages) == ["codec", "latent cache", "train"]
    assert stages["latent cache"]["clips"] == 0 and stages["latent cache"]["bytes"] == size
    assert stages["latent cache"]["charged"] and stages["latent cache"]["seconds"] > 0
    row = record(base / "out", "lavita-v1-s0")["row"]
    assert row["train_flops"] == sum(stage["flops"] for stage in stages.values()) and row["clips_seen"] == 96
    # Encoding is paid once for every frame, not a clip: the training stage has none of its own.
    assert "encoding_flops" not in stages["train"]
    assert [stage["name"] for stage in record(base / "out", "pvdm-s0")["stages"]][0] == "autoencoder"


def test_the_same_command_resumes(done):
    base, _, _, allowed = done
    again = run(*allowed)
    assert again.returncode == 0 and again.stdout.count("finished before") == 2, again.stdout + again.stderr


def test_a_foreign_cache_stops_the_run(done):
    base, _, _, allowed = done
    (folder,) = (base / "cache").glob("latents-*")
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(header | {"codec": "0" * 64}))
    stopped = run(*allowed, "--fresh", "--methods", "lavita-v1")
    (folder / "header.json").write_text(json.dumps(header))
    assert stopped.returncode == 2 and "a latent cache of something else: codec '0000" in stopped.stderr
    shutil.rmtree(base / "out")
