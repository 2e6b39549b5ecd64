"""Measures how far the scores of one command differ between numbers of threads and instruction sets of one machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lavita.commands.parser import Parser, exit_status
from lavita.config.registry import names_in
from lavita.config.schema import ConfigError
from lavita.suite.variation import INSTRUCTIONS

EPILOG = """\
examples:
  lavita variation --suite ucf101 --methods lavita-v1,dit
      a small part of the demo's budget, with 1 and 2 threads, with AVX2 and without: four runs one after the other
  lavita variation --suite ucf101 --methods lavita-v1,dit --full data.root=data/weizmann
      the demo's own budget: what documents print beside its numbers
  lavita variation --suite ucf101 --full --settings native-1,avx2-2,sse-1

Each run has its own cache, so autoencoder and methods are trained anew in each. A row for each score: lowest and
highest value, spread (their standard deviation as a share of their mean) and allowed, four times the spread of all rows
of the same stage and metric (root mean square) in whole percent: by so much a printed number may differ from the same
run elsewhere. CSV columns: dataset, cell, stage, metric, clips, runs,
lowest, highest, spread, allowed, protocols (more than 1: each run has fitted its own extractor), commit.
Exit status: 0 measured, 2 bad arguments, or a run failed.
"""


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    parser.add_argument("--suite", required=True, help=f"one of {', '.join(names_in('suites'))}")
    parser.add_argument("--tier", default="demo", help="demo (default), small or paper")
    parser.add_argument("--methods", help="names separated by commas (default: all of the suite)")
    parser.add_argument(
        "--settings",
        default="avx2-1,sse-1,avx2-2,sse-2",
        help=f"instructions ({', '.join(INSTRUCTIONS)}) and threads, two or more by commas (default: %(default)s)",
    )
    parser.add_argument("--full", action="store_true", help="the tier's own budget and not a small part of the demo's")
    parser.add_argument(
        "--out", type=Path, default=Path("results/variation"), help="folder of the runs (default: results/variation)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write the table as CSV too; - prints the CSV alone")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides of the configuration")
    return parser.parse(list(argv))


def run(arguments: argparse.Namespace) -> int:
    from lavita.files import atomic_write_text
    from lavita.suite.variation import REDUCED, as_csv, run_all, settings, table, varied

    chosen = settings(arguments.settings)
    if arguments.tier != "demo" and not arguments.full:
        raise ConfigError(f"--tier {arguments.tier}: wanted --full with it; the reduced budget is the demo's")
    words = ["--suite", arguments.suite, "--tier", arguments.tier]
    words += ["--methods", arguments.methods] if arguments.methods else []
    words += [*(() if arguments.full else REDUCED), *arguments.overrides]
    files = run_all(chosen, words, arguments.out.resolve(), lambda line: print(line, file=sys.stderr, flush=True))
    found = varied(files)
    if arguments.csv == "-":
        print(as_csv(found), end="")
        return 0
    if arguments.csv:
        atomic_write_text(Path(arguments.csv), as_csv(found))
    print(table(found))
    if not arguments.full:
        print("a reduced budget: --full measures what may be printed")
    return 0


def main(argv: Sequence[str], prog: str = "lavita variation") -> int:
    """Run the command with its arguments; returns the exit status."""
    arguments = parse(argv, prog)
    return exit_status(prog, lambda: run(arguments), interrupted="the same command resumes")
