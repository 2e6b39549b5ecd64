"""Measures speed on this machine, contestants in turn; prints medians, ratios and the floor that arithmetic sets."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from lavita.commands.parser import Parser  # noqa: E402
from lavita.speed import COMMANDS  # noqa: E402

EPILOG = """\
examples:
  python benchmarks/speed.py model --variant 3
  python benchmarks/speed.py data /data/ucf101 --resolutions 64,256
  python benchmarks/speed.py model --official ../Latte --threads 1 --csv -

Exit status: 0 measured, 2 bad arguments or contestants that can't be compared.
"""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("speed.py", __doc__, EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"lavita.speed.{name}")
        command = commands.add_parser(f"{name}", description=f"Measures {summary}.", help=summary)
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = parse(argv)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"speed.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
