"""How commands end: Ctrl-C, a closed pipe, output folders that are not theirs, and what the environment says."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lavita.cli import COMMANDS
from lavita.commands.parser import exit_status
from lavita.executors.process import RANK_VARIABLES, environment_of_processes

ROOT = Path(__file__).resolve().parents[2]
WORDS = {
    "run": ["--suite", "ucf101"],
    "evaluate": ["--from-features", "x"],
    "sample": ["--checkpoint", str(ROOT), "--out", "{tmp}/clips", "--clips", "1"],
    "prepare": ["ucf101", "{tmp}"],
    "audit": ["{tmp}"],
    "sanity": ["ucf101", "{tmp}"],
    "parity": ["{tmp}/a.json"],
    "speed": ["score"],
    "variation": ["--suite", "ucf101"],
    "extractors": [],
}


@pytest.fixture(params=COMMANDS)
def command(request, tmp_path, monkeypatch):
    """A command that raises what the test says, as soon as it works."""
    module = importlib.import_module(f"lavita.commands.{request.param}")
    words = [word.format(tmp=tmp_path) for word in WORDS[request.param]]

    def ends_with(error: BaseException) -> int:
        def fail(*_: object) -> int:
            raise error

        if request.param == "speed":
            monkeypatch.setattr(importlib.import_module("lavita.speed.score"), "run", fail)
        else:
            monkeypatch.setattr(module, "run", fail)
        return module.main(words)

    return ends_with


def test_ctrl_c_is_one_line_and_130(command, capsys):
    """Case ctrl-c: evaluate and sample showed a traceback."""
    assert command(KeyboardInterrupt()) == 130
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "interrupted" in said.err


def test_an_error_of_the_user_is_one_line_and_2(command, capsys):
    assert command(ValueError("wrong")) == 2
    assert capsys.readouterr().err.rstrip().endswith("wrong")


def test_a_closed_pipe_ends_quietly():
    """Case ctrl-c: prepare.py into `head -1` said `: Broken pipe`."""
    code = (
        "import sys; from lavita.commands.parser import exit_status\n"
        "def work():\n    for _ in range(100000): print('a line')\n    return 0\n"
        "sys.exit(exit_status('x.py', work))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141 and process.stderr.read() == b""


def test_a_broken_pipe_of_something_else_is_an_error(monkeypatch, capsys):
    def work() -> int:
        raise BrokenPipeError(32, "Broken pipe", "a socket")

    assert exit_status("x.py", work) == 2 and "a socket: Broken pipe" in capsys.readouterr().err


def test_no_command_and_no_process_believes_another_ones_rank(monkeypatch):
    """Case inherited-world-size: WORLD_SIZE=2 from outside made a run wait for a process that nobody starts."""
    for name in RANK_VARIABLES:
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert not RANK_VARIABLES & set(environment_of_processes({}))
    assert environment_of_processes({"RANK": "1"})["RANK"] == "1"
    seen = []
    assert exit_status("x.py", lambda: seen.append(RANK_VARIABLES & set(os.environ)) or 0) == 0
    assert seen == [set()] and os.environ["SLURM_NTASKS"] == "4"


NO_TEXT = os.fsdecode(b"r_\xfcx")


@pytest.mark.parametrize("words", [["--out", NO_TEXT], ["--cache", NO_TEXT], [f"data.root={NO_TEXT}"]])
def test_run_refuses_paths_that_are_no_text_at_once(script, tmp_path, monkeypatch, words):
    """Case non-utf8-path: it died after the untrained network was scored."""
    monkeypatch.chdir(tmp_path)
    done = script("run")("--suite", "ucf101", "--tier", "demo", "--methods", "lavita-v1", *words)
    assert done.code == 2 and "UTF-8" in done.err and done.err.count("\n") == 1


def test_sample_refuses_them_too(script, tmp_path):
    done = script("sample")("--checkpoint", tmp_path, "--out", tmp_path / NO_TEXT, "--clips", 1)
    assert done.code == 2 and "UTF-8" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("there", ["clips.gif", "clips/a.txt"])
def test_sample_writes_over_nothing(script, tmp_path, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("mine")
    done = script("sample")("--checkpoint", tmp_path, "--out", tmp_path / "clips", "--clips", 1)
    assert done.code == 2 and done.err.startswith("sample.py: --out: ") and (tmp_path / there).read_text() == "mine"


def test_run_writes_over_no_comparison(script, tmp_path):
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "rows.csv").write_text("mine")
    done = script("run")(
        "--suite", "ucf101", "--tier", "demo", "--methods", "lavita-v1", "--out", tmp_path, "--cache", tmp_path / "c"
    )
    assert done.code == 2 and "comparison of evaluate" in done.err and (tmp_path / "rows.csv").read_text() == "mine"


def test_prepare_writes_over_no_other_file(script, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("mine\n")
    for split in ("sky_train", "sky_test"):
        (tmp_path / split / "v").mkdir(parents=True)
    done = script("prepare")("skytimelapse", tmp_path, "--manifest", notes, "--cache", tmp_path / "cache")
    assert done.code == 2 and "no manifest" in done.err and notes.read_text() == "mine\n"


def test_output_is_flushed_before_a_command_ends(monkeypatch):
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device", "stdout")

    monkeypatch.setattr(sys, "stdout", Gone())
    assert exit_status("x.py", lambda: 0) == 2
