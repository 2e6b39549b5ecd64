"""The `lavita` command: `lavita run ...` does what `python benchmarks/run.py ...` does in a checkout."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from lavita import __version__

COMMANDS = {
    "run": "trains every method of a suite under one budget, samples, scores, and writes the tables",
    "evaluate": "scores any two folders of clips under a named protocol",
    "sample": "samples clips from a checkpoint",
    "prepare": "checks a copy of a data set, writes its manifest; fetches it with --download",
    "audit": "checks a results folder: settings, budgets, clips, scores, tables, files",
    "sanity": "measures what a feature network is sensitive to",
    "parity": "repeats recorded figures of official code",
    "speed": "measures speed on this machine",
    "variation": "measures how far scores differ between threads and instruction sets",
    "extractors": "lists the in-domain extractors kept with this package; fits them anew with --fit",
}
USAGE = "usage: lavita COMMAND [arguments], lavita COMMAND --help, lavita --version"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command by name with the arguments after it; returns its exit status, 2 for no or an unknown command."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or [""]
    if name in COMMANDS:
        return importlib.import_module(f"lavita.commands.{name}").main(rest, prog=f"lavita {name}")
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {command:<{width}}  {summary}" for command, summary in COMMANDS.items()]
        print("\n".join([USAGE, "", "Trains LAVITA and its baselines under one budget and compares them.", "", *lines]))
        return 0
    if name == "--version":
        print(f"lavita {__version__}")
        return 0
    from lavita.config.schema import nearest

    said = f"unknown command {name!r}: {nearest(name, list(COMMANDS))}" if name else "no command given"
    print(f"lavita: {said} (see lavita --help)", file=sys.stderr)
    return 2
