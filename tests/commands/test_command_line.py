"""run.py and sample.py as a user meets them: bad input is one clear message and exit status 2, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lavita.commands import run

ROOT = Path(__file__).resolve().parents[2]


def call(script: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT)


def refused(script: str, *arguments: str) -> str:
    """What a refused call says: exit status 2, no traceback, nothing on standard output but progress."""
    done = call(script, *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr.strip()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--suite", "ucf11"], "did you mean 'ucf101'"),
        (["--suite", "ucf101", "--tier", "demos"], "--tier: got 'demos', allowed paper, small, demo"),
        (["--suite", "ucf101", "--tier", "demo", "--methods", "ditt"], "did you mean 'dit'"),
        (["--suite", "ucf101", "--tier", "demo", "budget.clip=3"], "did you mean 'budget.clips'"),
        (["--suite", "ucf101", "--tier", "demo", "--seeds", "a"], "--seeds: got 'a'"),
        (["--suite", "ucf101", "--tier", "demo", "--sedes", "1"], "did you mean '--seeds'"),
        (["--suite", "ucf101", "--tier", "demo", "--hang-timeout", "0"], "--hang-timeout: got 0, wanted more than 0"),
        (["--tier", "demo"], "--suite"),
        (["--suite", "ucf101", "--tier", "demo", "data.root=/nowhere/at/all"], "no such folder"),
    ],
)
def test_bad_arguments_of_run(arguments, message):
    said = refused("run.py", *arguments)
    assert message in said
    if "nowhere" not in said:
        assert "\n" not in said


def test_no_data_names_tree_source_and_demo():
    said = refused("run.py", "--suite", "skytimelapse")
    for part in ("data.root", "sky_train", "where it comes from", "run.py --suite skytimelapse --tier demo"):
        assert part in said


def test_empty_root_and_layout_of_another_set(tmp_path):
    assert "empty" in refused("run.py", "--suite", "taichi", "--tier", "demo", f"data.root={tmp_path}")
    for split in ("sky_train", "sky_test"):
        (tmp_path / split).mkdir()
    said = refused("run.py", "--suite", "taichi", "--tier", "demo", f"data.root={tmp_path}")
    assert "looks like skytimelapse" in said


def test_help_is_complete():
    done = call("run.py", "--help")
    assert done.returncode == 0
    for part in ("--suite", "--tier", "--methods", "--seeds", "--out", "section.key=value", "Exit status"):
        assert part in done.stdout
    assert "--hang-timeout MINUTES" in done.stdout and "--patience" not in done.stdout


def test_the_old_name_of_a_flag():
    for flag in ("--hang-timeout", "--patience"):
        assert run.parse(["--suite", "ucf101", flag, "2.5"], "run.py").hang_timeout == 2.5
    assert run.parse(["--suite", "ucf101"], "run.py").hang_timeout == 60


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--checkpoint", "/nowhere", "--out", "/tmp/x", "--clips", "1"], "no file /nowhere"),
        (["--checkpoint", "/nowhere", "--out", "/tmp/x", "--clips", "0"], "--clips: got 0"),
        (["--out", "/tmp/x", "--clips", "1"], "--checkpoint"),
    ],
)
def test_bad_arguments_of_sample(arguments, message):
    assert message in refused("sample.py", *arguments)
