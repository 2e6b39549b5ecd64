"""The dry run: columns that other programs read, counted figures, no data, no weights."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Spelled out again on purpose: other programs read these columns in this order.
EXPECTED = (
    "suite,tier,cell,method,dataset,seed,stage,params,flops_forward_per_clip,flops_train_per_clip,clips,steps,batch,"
    "est_seconds,est_peak_bytes,est_disk_bytes,est_sampling_seconds,done"
).split(",")
CHOSEN = "lavita-v1,lavita-v1-pretrained,lavita-v1-joint"
STAGES = {"codec", "extractor", "autoencoder", "autoencoder-gan", "train", "sample", "score"}


# Runs a command and says last, on standard error, what the largest process of it had in memory, in KiB.
WATCHED = (
    "import resource, subprocess, sys; status = subprocess.run(sys.argv[1:]).returncode; "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(status)"
)


def planned(*arguments: str) -> list[dict[str, str]]:
    """Rows of `run.py --dry-run --csv -`, which must print nothing else and stay below 2 GB."""
    command = [sys.executable, "-c", WATCHED, sys.executable, str(ROOT / "benchmarks" / "run.py")]
    command += ["--dry-run", "--csv", "-", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == EXPECTED and done.stdout.count("\n") == len(rows) + 1
    assert {row["stage"] for row in rows} <= STAGES
    assert int(done.stderr.split()[-1]) * 1024 < 2e9
    return rows


def test_paper_tier_counts_without_weights():
    """One XL network in float32 is 2.7 GB, which `planned` would have seen."""
    rows = planned("--suite", "ucf101", "--methods", "lavita-v1", "--seeds", "0,1")
    by = {(row["cell"], row["stage"]): row for row in rows}
    assert set(by) == {
        (f"lavita-v1-s{seed}", stage) for seed in (0, 1) for stage in ("codec", "extractor", "train", "sample", "score")
    }
    train = by["lavita-v1-s0", "train"]
    assert int(train["params"]) == 673_681_568
    # Recorded with the modulation once per clip.
    assert int(train["flops_forward_per_clip"]) == pytest.approx(3725.65e9, abs=5e6)
    assert (train["clips"], train["steps"], train["batch"]) == ("10240000", "256000", "40")
    assert by["lavita-v1-s1", "train"] == train | {"cell": "lavita-v1-s1", "seed": "1"}
    sample = by["lavita-v1-s0", "sample"]
    assert int(sample["flops_forward_per_clip"]) == 250 * int(train["flops_forward_per_clip"])
    # Stable Diffusion's autoencoder, as published: 83.65 M parameters, given and not trained.
    codec = by["lavita-v1-s0", "codec"]
    assert int(codec["params"]) == 83_653_863 and codec["clips"] == "0"
    assert all(row["est_seconds"] == row["est_sampling_seconds"] == "" and row["done"] == "false" for row in rows)
    # The weights in float32, and at most a hundredth more: fixed tables, logs.
    assert 1 <= int(train["est_disk_bytes"]) / (4 * 673_681_568) < 1.01
    # 2,048 clips of 16 RGB frames as raw bytes; their list and two moving grids are little beside them.
    assert 1 <= int(sample["est_disk_bytes"]) / (2048 * 16 * 256 * 256 * 3) < 1.01


def test_demo_says_what_the_ledger_will_hold():
    rows = planned("--suite", "ucf101", "--tier", "demo", "--methods", "lavita-v1,pvdm", "--probe")
    stages = {(row["method"], row["stage"]): row for row in rows}
    assert int(stages["lavita-v1", "codec"]["clips"]) + int(stages["lavita-v1", "train"]["clips"]) == 24576
    own = [int(stages["pvdm", stage]["clips"]) for stage in ("autoencoder", "autoencoder-gan", "train")]
    assert sum(own) == 24576 and ("pvdm", "codec") not in stages
    # The synthetic videos' feature network comes fitted.
    assert {(row["stage"], float(row["est_seconds"])) for row in rows if row["clips"] == "0"} == {("extractor", 0.0)}
    assert all(float(row["est_seconds"]) > 0 for row in rows if row["flops_forward_per_clip"] and row["clips"] != "0")
    assert all(int(row["est_peak_bytes"]) > 0 for row in rows if row["stage"] == "train")
    assert all(int(row["est_disk_bytes"]) > 0 for row in rows)
    for method in ("lavita-v1", "pvdm"):
        train, sample = stages[method, "train"], stages[method, "sample"]
        # 64 clips of 25 evaluations: FLOPs per second of a CPU's forward pass.
        flops = int(train["flops_forward_per_clip"]) * 25 * 64
        assert 1e8 < flops / float(sample["est_sampling_seconds"]) < 1e13
        assert float(sample["est_seconds"]) == pytest.approx(2 * float(sample["est_sampling_seconds"]))
    rates = {int(r["flops_forward_per_clip"]) * int(r["clips"]) / float(r["est_sampling_seconds"])
             for r in rows if r["stage"] == "sample"}  # fmt: skip
    assert max(rates) == pytest.approx(min(rates))
    assert all(row["est_sampling_seconds"] == "" for row in rows if row["stage"] != "sample")


def test_what_a_choice_costs():
    rows = planned(
        "--suite",
        "ablations",
        "--tier",
        "demo",
        "--methods",
        "lavita-v1,lavita-v1-pretrained,lavita-v1-joint",
        "--seeds",
        "0",
    )
    train = [row for row in rows if row["stage"] == "train"]
    base, start, rest, joint = train
    assert (start["cell"], start["method"]) == ("lavita-v1-pretrained-s0", "dit")
    assert int(start["clips"]) + int(rest["clips"]) == int(base["clips"]) == int(joint["clips"])
    # 4 images beside 8 frames: a clip costs one and a half, so there are two thirds as many steps.
    assert 3 * int(joint["steps"]) == 2 * int(base["steps"])


def test_csv_and_probe_go_with_a_dry_run():
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101", "--csv", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2 and "--csv goes with --dry-run" in done.stderr
