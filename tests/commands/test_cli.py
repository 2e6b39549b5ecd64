"""The `lavita` command: help, version, errors; each command answers by the name that it was called by."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lavita import __version__
from lavita.cli import COMMANDS, USAGE, main
from lavita.console import this_command

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "lightning", "pandas", "av", "omegaconf")


def helped(capsys, name: str, prog: str) -> str:
    """What a command's own main prints for --help."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"lavita.commands.{name}").main(["--help"], prog=prog)
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_lists_every_command(capsys, flag):
    assert main([flag]) == 0
    said = capsys.readouterr().out
    assert said.startswith(USAGE)
    assert {line.split()[0] for line in said.splitlines() if line.startswith("  ")} == set(COMMANDS)


def test_every_command_has_a_module_a_script_and_no_other_does():
    modules = {path.stem for path in (ROOT / "src" / "lavita" / "commands").glob("*.py")} - {"__init__", "parser"}
    assert modules == set(COMMANDS) == {path.stem for path in (ROOT / "benchmarks").glob("*.py")}


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lavita {__version__}\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evalute"], "unknown command 'evalute': did you mean 'evaluate'? (see lavita --help)"),
        (["--verison"], "unknown command '--verison'"),
        ([""], "no command given (see lavita --help)"),
        ([], "no command given (see lavita --help)"),
    ],
)
def test_a_wrong_command_is_one_line(capsys, arguments, message):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"lavita: {message}") and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_names_it_as_it_was_called(capsys, name):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    installed = capsys.readouterr().out
    assert stop.value.code == 0 and installed.startswith(f"usage: lavita {name} ")
    assert f"  lavita {name} " in installed and "benchmarks/" not in installed
    checkout = helped(capsys, name, f"{name}.py")
    assert checkout.startswith(f"usage: {name}.py ") and f"  python benchmarks/{name}.py " in checkout
    assert f"\n  lavita {name} " not in checkout


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_arguments_name_the_command_and_are_one_line(capsys, name):
    with pytest.raises(SystemExit) as stop:
        main([name, "--no-such-flag"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"lavita {name}: ") and said.count("\n") == 1
    assert said.endswith(f"(see lavita {name} --help)\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["rnu"]])
def test_answers_without_loading_anything_heavy(arguments):
    code = (
        "import sys, lavita.cli; lavita.cli.main(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT / "src")
    assert done.stderr.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_loads_no_torch(name):
    code = (
        "import sys, lavita.cli\n"
        "try:\n    lavita.cli.main(sys.argv[1:])\n"
        "except SystemExit:\n    print([name for name in ('torch', 'lightning', 'scipy') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, name, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT / "src")
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    "argv, said",
    [
        (["/env/bin/lavita", "run", "a b"], "lavita run 'a b'"),
        (["/env/lib/lavita/__main__.py", "run"], "lavita run"),
        (["benchmarks/run.py", "--suite", "ucf101"], "python benchmarks/run.py --suite ucf101"),
        (["mine.py", "x"], "python mine.py x"),
    ],
)
def test_a_run_that_is_interrupted_says_how_it_was_called(monkeypatch, argv, said):
    monkeypatch.setattr(sys, "argv", argv)
    assert this_command() == said


def test_python_m_lavita_is_the_command():
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-m", "lavita", "audit", "no-such-folder"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2 and done.stderr.startswith("lavita audit: no-such-folder: ")
