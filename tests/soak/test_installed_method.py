"""A method of another distribution, from training to the table, and sampled again: no flag, no edit, its name alone."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from lavita.config.registry import PLUGINS
from tests.config.declared import install
from tests.contract.test_plugin_run import ROOT, TINY


def call(site: Path, *words: object) -> str:
    """`lavita ...` where the distribution is on Python's path; what it says."""
    search = os.pathsep.join([str(ROOT / "src"), str(site)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", PLUGINS: "", "PYTHONPATH": search}
    command = [sys.executable, "-m", "lavita", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=site.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_trains_tables_a_row_and_samples(tmp_path):
    site, out = tmp_path / "site", tmp_path / "out"
    install(site)
    where = ["--out", out, "--cache", tmp_path / "cache"]
    said = call(site, "run", "--suite", "ucf101", "--tier", "demo", "--methods", "mine", *where, *TINY)
    assert " 0 failed (lavita audit " in said
    with open(out / "rows.csv", newline="") as file:
        assert {(row["method"], row["status"]) for row in csv.DictReader(file)} == {("mine", "ok")}
    call(site, "sample", "--checkpoint", out / "cells" / "mine-s0", "--out", tmp_path / "clips", "--clips", 1)
    assert len(list((tmp_path / "clips").glob("*.mkv"))) == 1
