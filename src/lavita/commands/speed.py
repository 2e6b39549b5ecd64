"""Measures speed on this machine, contestants in turn; prints medians, ratios and the floor that arithmetic sets."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from lavita.commands.parser import Parser, exit_status
from lavita.speed import COMMANDS

EPILOG = """\
examples:
  lavita speed model --variant 3
  lavita speed data /data/ucf101 --resolutions 64,256
  lavita speed model --official ../Latte --threads 1 --csv -

Exit status: 0 measured, 2 bad arguments or contestants that can't be compared.
"""


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"lavita.speed.{name}")
        command = commands.add_parser(f"{name}", description=f"Measures {summary}.", help=summary)
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser.parse_args(list(argv))


def main(argv: Sequence[str], prog: str = "lavita speed") -> int:
    """Run the command with its arguments; returns the exit status."""
    options = parse(argv, prog)
    return exit_status(prog, lambda: options.run(options) or 0)
