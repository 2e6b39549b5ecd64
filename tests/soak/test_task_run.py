"""A row made by a task, in a chain, with external weights: what it says of itself, from the command to the table.

One run of PVDM that has read the clip before each, judged its autoencoder by LPIPS from two files, and continues
held-out clips by two clips each.
"""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lavita.data.clip_folder import read_clips, read_manifest
from lavita.methods.perceptual import LPIPS

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "data.latent_cache=false",
    "budget.clips=96", "model.autoencoder_share=0.34", "model.adversarial_share=0.17", "codec.clips=16",
    "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4", "protocol.n_real=8", "protocol.n_generated=12",
]  # fmt: skip
# The drawn videos have 32 frames; two clips of 8 at interval 2 span 31.
CHAIN = [
    "model.previous_clip=true", "sampling.task=continuation", "sampling.num_clips_chained=2", "protocol.frames=16",
    "data.interval=2", "protocol.real_interval=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    base = tmp_path_factory.mktemp("task")
    torch.manual_seed(0)
    model = LPIPS()
    features = {f"features.{key.split('.', 2)[2]}": v for key, v in model.net.state_dict(prefix="net.").items()}
    torch.save(features, base / "vgg16.pth")
    torch.save({key: v for key, v in model.state_dict().items() if key.startswith("lin")}, base / "linear.pth")
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "skytimelapse", "--tier", "demo"]
    command += ["--methods", "pvdm", "--out", str(base / "out"), "--cache", str(base / "cache"), *TINY, *CHAIN]
    command += [f"model.lpips_vgg={base / 'vgg16.pth'}", f"model.lpips_linear={base / 'linear.pth'}"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT, env=os.environ)
    assert process.returncode == 0, process.stdout + process.stderr
    return base


def rows(base: Path) -> list[dict[str, str]]:
    with open(base / "out" / "rows.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_row_stands_under_its_task_and_says_what_it_was_made_from(done):
    table, found = (done / "out" / "table.md").read_text(), rows(done)
    assert {row["conditioning"] for row in found} == {"continuation"} and "conditioning: continuation;" in table
    assert all(row["reason"].startswith("continuation of 12 clips from 12 held-out windows; ") for row in found)
    sidecar = read_manifest(done / "out" / "cells" / "pvdm-s0" / "samples")["sidecar"]
    assert sidecar["condition"] == "continuation of 12 clips from 12 held-out windows"


def test_a_chain_is_scored_and_its_autoencoder_judged_at_its_whole_length(done):
    assert read_clips(done / "out" / "cells" / "pvdm-s0" / "samples").shape == (12, 16, 32, 32, 3)
    metrics = {(row["stage"], row["metric"]) for row in rows(done)}
    assert {("train", "fvd_embedded_n12_f16"), ("autoencoder", "rfvd_embedded_n8_f16")} <= metrics


def test_outside_weights_open_the_row_and_are_named_by_their_hashes(done):
    files = [done / "vgg16.pth", done / "linear.pth"]
    found = rows(done)
    assert {row["division"] for row in found} == {"open"}
    assert {row["external_bytes"] for row in found} == {str(sum(file.stat().st_size for file in files))}
    for file in files:
        name = f"{file.name} (sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}; "
        assert all(name in row["reason"] for row in found)
    assert ("autoencoder", "lpips_n24_f8") in {(row["stage"], row["metric"]) for row in found}
    record = json.loads((done / "out" / "cells" / "pvdm-s0" / "record.json").read_text())
    assert record["declared"]["perceptual loss"] == "lpips-vgg16"
    assert str(done) not in (done / "out" / "table.md").read_text()


def test_the_three_stages_spend_the_one_budget_on_frames_read(done):
    """A clip that comes with the one before it costs two: 48 clips of the budget are 24 drawn."""
    record = json.loads((done / "out" / "cells" / "pvdm-s0" / "record.json").read_text())
    stages = [(stage["name"], stage["clips"]) for stage in record["stages"]]
    assert stages == [("autoencoder", 32), ("autoencoder-gan", 16), ("train", 48)]
