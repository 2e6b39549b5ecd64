"""Repeat recorded figures of the official systems: python benchmarks/parity.py CASE.json ...

Exit status: 0 all figures of all cases pass, 1 some do not (or a system is not covered), 2 a file is no case.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Rebuild parity cases from their formulas; compare our figures with the recorded ones.",
        epilog="Exit status: 0 all pass, 1 a figure fails or a system is not covered, 2 a file is no case.",
    )
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE.json", help="files of recorded figures")
    parser.add_argument("--gradients", action="store_true", help="print every gradient norm, not only failing ones")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run all cases, print one line a figure; returns the exit status."""
    options = parse(arguments)
    # Imported late: --help must not wait for torch. The root holds the baselines, the networks under test.
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    from lavita.parity.cases import CaseError, read_case
    from lavita.parity.run import run_and_print

    try:
        cases = [read_case(path) for path in options.cases]
        passed = [run_and_print(case, options.gradients) for case in cases]
    except CaseError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    print(f"{sum(passed)} of {len(passed)} cases pass")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
