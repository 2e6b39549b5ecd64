"""benchmarks/variation.py from end to end: one small command under two instruction sets."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "budget.clips=32", "codec.clips=16", "train.warmup_clips=0", "sampling.steps=2", "protocol.n_real=4",
    "protocol.n_generated=4", "model.depth=1", "model.width=24", "model.num_heads=2",
]  # fmt: skip


def test_scores_vary_a_little_by_the_published_extractor_in_all_runs(tmp_path):
    words = ["--suite", "ucf101", "--methods", "dit", "--settings", "native-1,sse-1", "--csv", "-"]
    command = [sys.executable, str(ROOT / "benchmarks" / "variation.py"), *words, "--out", str(tmp_path), *TINY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {("dit-s0", "train"), ("dit-s0", "untrained")} <= {(row["cell"], row["stage"]) for row in rows}
    assert {(row["runs"], row["protocols"]) for row in rows} == {("2", "1")}
    assert all(float(row["lowest"]) <= float(row["highest"]) for row in rows)
    assert any(float(row["lowest"]) < float(row["highest"]) for row in rows)
    for name in ("native-1", "sse-1"):
        log = (tmp_path / f"{name}.log").read_text()
        assert "extractor: synthetic-ucf101's, as published (sha256 " in log and "extractor trained" not in log
