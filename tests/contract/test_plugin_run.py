"""A copy of the template, in a folder of its own, from training to the table, and sampled again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sample import main as sample
from lavita.config.registry import PLUGINS

ROOT = Path(__file__).resolve().parents[2]

TINY = [
    "budget.clips=16", "codec.kind=pixels", "train.warmup_clips=0", "extractor.steps=1", "sampling.steps=2",
    "protocol.n_real=4", "protocol.n_generated=4", "model.width=8",
]  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", PLUGINS: ""}
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    base = tmp_path_factory.mktemp("plugin")
    folder = base / "mine"
    shutil.copytree(ROOT / "docs" / "template", folder)
    settings = folder / "method.yaml"
    settings.write_text(settings.read_text().replace(": template\n", ": mine\n"))
    arguments = ["--suite", "ucf101", "--tier", "demo", "--plugin", str(folder), "--methods", "mine"]
    process = run(*arguments, "--out", str(base / "out"), "--cache", str(base / "cache"), *TINY)
    return base, process


def test_trains_and_tables_a_row(done):
    base, process = done
    assert process.returncode == 0, process.stdout + process.stderr
    with open(base / "out" / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["status"]) for row in rows} == {("mine", "ok")}
    assert {row["clips_seen"] for row in rows if row["stage"] == "train"} == {"16"}
    assert "| mine |" in (base / "out" / "table.md").read_text()


def test_record_lists_deviations_and_sources(done):
    base, _ = done
    record = json.loads((base / "out" / "cells" / "mine-s0" / "record.json").read_text())
    assert "model.width: 128 -> 8" in record["deviations"]
    assert len(record["code_hash"]) == 16


def test_checkpoint_samples_again_with_the_flag_only(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(PLUGINS, "")
    base, _ = done
    wanted = ["--checkpoint", str(base / "out" / "cells" / "mine-s0"), "--out", str(tmp_path / "clips"), "--clips", "1"]
    assert sample(wanted) == 2
    said = capsys.readouterr().err
    assert "--plugin PATH" in said and said.count("\n") == 1
    assert sample([*wanted, "--plugin", str(base / "mine")]) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "clips").glob("*.mkv"))) == 1
