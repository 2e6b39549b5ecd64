"""Repeats recorded figures of the official systems: builds each case from its formulas and compares our figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lavita.commands.parser import Parser, exit_status

EPILOG = """\
example:
  lavita parity tests/parity/*.json

Exit status: 0 all figures of all cases pass, 1 some do not (or a system is not covered), 2 a file is no case.
"""


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE.json", help="files of recorded figures")
    parser.add_argument("--gradients", action="store_true", help="print every gradient norm, not only failing ones")
    return parser.parse(list(argv))


def run(arguments: argparse.Namespace) -> int:
    # Imported late: --help must not wait for torch.
    from lavita.parity.cases import read_case
    from lavita.parity.run import run_and_print

    cases = [read_case(path) for path in arguments.cases]
    passed = [run_and_print(case, arguments.gradients) for case in cases]
    print(f"{sum(passed)} of {len(passed)} cases pass")
    return 0 if all(passed) else 1


def main(argv: Sequence[str], prog: str = "lavita parity") -> int:
    """Run the command with its arguments; returns the exit status."""
    arguments = parse(argv, prog)
    return exit_status(prog.removesuffix(".py"), lambda: run(arguments))
