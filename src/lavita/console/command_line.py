"""How this command was called, and how another one is called in the same way."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def invocation(command: str) -> str:
    """How another command is called, in the way this one was: from a checkout, or installed."""
    if Path(sys.argv[0]).parent.name == "benchmarks":
        return f"python benchmarks/{command}.py"
    return f"lavita {command}"


def this_command() -> str:
    """The command line that started this process, to be given again."""
    program = Path(sys.argv[0])
    if program.name in ("lavita", "lavita.exe") or program.parts[-2:] == ("lavita", "__main__.py"):
        return f"lavita {shlex.join(sys.argv[1:])}"
    return f"python {shlex.join(sys.argv)}"
