"""Whole runs under a budget of FLOPs and of seconds: each is met by its last step, tabled, and passes its own audit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "codec.clips=32", "data.latent_cache=false", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4",
    "protocol.n_real=8", "protocol.n_generated=8",
]  # fmt: skip
ASKED = {"flops": 9e10, "seconds": 5.0}


@pytest.mark.parametrize("currency", ASKED)
def test_a_run_under_another_budget(tmp_path_factory, currency):
    base = tmp_path_factory.getbasetemp()
    out = base / currency
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101", "--tier", "demo"]
    command += ["--methods", "lavita-v1,pvdm,lvdm", "--out", str(out), "--cache", str(base / "cache"), *TINY]
    command += [f"budget.currency={currency}", f"budget.{currency}={ASKED[currency]:g}"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed (" in done.stdout
    for cell in ("lavita-v1-s0", "pvdm-s0", "lvdm-s0"):
        record = json.loads((out / "cells" / cell / "record.json").read_text())
        budget, stages = record["budget"], record["stages"]
        last = stages[-1]
        assert budget["unit"] == currency and budget["asked"] == ASKED[currency]
        spent = sum(stage[currency] for stage in stages)
        # Without its last step the budget would not be empty; in seconds steps differ, so the log says when that began.
        if currency == "flops":
            assert ASKED[currency] <= spent < ASKED[currency] + last["flops"] / last["steps"]
        else:
            lines = (out / "cells" / cell / "steps.csv").read_text().splitlines()
            before = float(lines[-2].split(",")[3]) if lines[-2].startswith(f"{last['name']},") else 0.0
            # The log has whole milliseconds.
            assert spent >= ASKED[currency] > spent - last["seconds"] + before - 5e-4
