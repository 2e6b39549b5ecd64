"""A suite of choices on tiny numbers: pretraining and joint training spend one budget, protocols share no column."""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lavita.baselines.dit.model import DiT, DiTConfig
from lavita.parity.cases import fill_by_formula

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "budget.clips=96", "codec.clips=48", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=3",
    "protocol.n_real=8", "protocol.n_generated=8", "model.depth=2", "model.width=16", "model.num_heads=2",
]  # fmt: skip
ROWS = ["lavita-v1", "lavita-v1-pretrained", "lavita-v1-joint", "lavita-v1-interval1"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    base = tmp_path_factory.mktemp("choices")
    (base / "empty").mkdir()
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ablations", "--tier", "demo"]
    command += ["--methods", ",".join(ROWS), "--seeds", "0", "--out", str(base / "out"), "--cache", str(base / "cache")]
    command += ["--samples", f"theirs={base / 'empty'}", *TINY]
    process = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT, env=os.environ)
    return base / "out", process


def record(out: Path, cell: str) -> dict:
    return json.loads((out / "cells" / cell / "record.json").read_text())


def table(out: Path, name: str) -> list[dict[str, str]]:
    with open(out / name, newline="") as file:
        return list(csv.DictReader(file))


def test_every_choice_stands_in_the_table_and_a_wrong_folder_of_clips_says_why(done):
    out, process = done
    assert "Traceback" not in process.stdout + process.stderr
    assert process.returncode == 1  # the empty folder
    status = {row["method"]: row["status"] for row in table(out, "table.csv")}
    assert status == {name: "ok" for name in ROWS} | {"theirs": "failed"}
    assert "8 are missing" in process.stdout


def test_pretraining_is_paid_from_the_budget_and_recorded(done):
    out, _ = done
    found = record(out, "lavita-v1-pretrained-s0")
    stages = [(s["name"], s["clips"]) for s in found["stages"]]
    assert stages == [("codec", 48), ("latent cache", 0), ("pretraining", 16), ("train", 32)]
    start = found["starting_weights"]
    assert start["source"] == "16 clips of dit" and start["left"] == {} and len(start["taken"]) > 20
    assert "pretraining: none -> dit on 0.25 of the budget" in found["deviations"]
    assert "tensors from 16 clips of dit" in (out / "table.md").read_text()


def test_images_are_paid_from_the_budget(done):
    """48 clips of 8 frames with 4 images each are 32 clips drawn; the ledger says 48."""
    out, _ = done
    found = record(out, "lavita-v1-joint-s0")
    assert found["row"]["clips_seen"] == 96 and found["heldout_losses"][-1][0] == 48


def test_another_interval_has_its_own_columns_and_no_verdict(done):
    out, _ = done
    rows = {row["method"]: row for row in table(out, "table.csv")}
    own = [name for name in rows["lavita-v1"] if name.startswith("fvd") and "real_interval=1" in name]
    assert own and all(rows["lavita-v1"][name] == "another block" for name in own)
    assert float(rows["lavita-v1-interval1"][own[0]]) > 0
    pairs = {row["choice"]: row for row in table(out, "pairs.csv")}
    assert set(pairs) == set(ROWS[1:])
    assert "another protocol" in pairs["lavita-v1-interval1"]["verdict"]
    assert "one seed" in pairs["lavita-v1-joint"]["verdict"] and float(pairs["lavita-v1-joint"]["ratio"]) > 0


def test_the_chart_shows_what_can_be_compared(done):
    out, _ = done
    text = (out / "quality_cost.svg").read_text()
    assert text.count("<circle") == 3 and "interval1" not in text


@pytest.fixture(scope="module")
def started_from_a_file(done, tmp_path_factory):
    """One run that starts from an official-format DiT of 1000 classes, in mixed precision, batches accumulated."""
    base = tmp_path_factory.mktemp("file")
    shape = DiTConfig(
        depth=2, width=16, num_heads=2, patch_size=1, channels=16, side=2, num_classes=1000, mode="frame", num_frames=8
    )
    network = DiT(shape)
    fill_by_formula(network)
    torch.save({"ema": network.state_dict(), "args": argparse.Namespace(lr=1e-4)}, base / "DiT-tiny.pt")
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101-class", "--tier", "demo"]
    command += ["--methods", "lavita-v1", "--out", str(base / "out"), "--cache", str(done[0].parent / "cache"), *TINY]
    command += [f"pretraining.checkpoint={base / 'DiT-tiny.pt'}", "compute.precision=bf16-mixed"]
    command += ["pretraining.origin=made by formula"]
    command += ["compute.pass_clips=4", "compute.checkpoint_activations=true", "sampling.sampler=dpm-solver++"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT, env=os.environ)
    assert process.returncode == 0, process.stdout + process.stderr
    return base


def test_an_outside_start_makes_the_row_open_and_is_named_by_its_hash(started_from_a_file):
    base = started_from_a_file
    found, file = record(base / "out", "lavita-v1-s0"), base / "DiT-tiny.pt"
    row, start = found["row"], found["starting_weights"]
    assert row["division"] == "open" and row["external_bytes"] == file.stat().st_size
    mark = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    assert start["source"] == f"DiT-tiny.pt (sha256 {mark}; made by formula)"
    assert f"pretraining.checkpoint: {start['source']}" in (base / "out" / "rows.csv").read_text()
    assert list(start["left"]) == ["y_embedder.embedding_table.weight"]
    assert "pretraining.checkpoint: none -> an external file" in found["deviations"]
    assert str(base) not in (base / "out" / "table.md").read_text()


def test_the_record_names_how_the_machine_was_used(started_from_a_file):
    found = record(started_from_a_file / "out", "lavita-v1-s0")
    config = found["config"]
    assert config["compute"] == {
        "precision": "bf16-mixed", "compile": False, "threads": 1, "pass_clips": 4, "checkpoint_activations": True,
        "devices": 1, "nodes": 1, "strategy": "auto", "deterministic": False,
    }  # fmt: skip
    assert config["sampling"]["sampler"] == "dpm-solver++"
    passes = {"clips": 4, "recomputed": True}
    assert found["passes"] == {"train": passes} and found["stages"][-1]["passes"] == passes
