"""Checks a results folder as a sceptic would: settings, budgets, clips, scores, tables, files. Reads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lavita.commands.parser import Parser, exit_status

EPILOG = """\
examples:
  lavita audit results/ucf101-demo-embedded
  lavita audit DIR --digest HEX    the digest that run.py printed last, or that stands in a paper's table
  lavita audit DIR --strict        code that is not a clean commit fails too

Every check is a line: pass, FAIL or n/a (not applicable), what was checked, where, and at a failure the values that
differ. Scores are recomputed from the stored features, features of some clips from the stored clips, tables from the
records, budgets from the logs of steps. Without --digest every edit that is not carried through consistently is found;
with it, every edit, since whoever can edit a folder can edit all of it.
Exit status: 0 all well, 1 a closed table holds a failing row or the run itself fails, 2 bad arguments or no results
folder. A failure of a row in an open table alone is reported, with exit status 0.
"""
WIDTH = 5


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder of run.py")
    parser.add_argument("--digest", metavar="HEX", help="64 hex digits; also checked: that the folder is the one meant")
    parser.add_argument("--strict", action="store_true", help="code with uncommitted changes, or of no commit, fails")
    parser.add_argument(
        "--clips", type=int, default=4, help="clips per row whose features are recomputed, 0 for none (default: 4)"
    )
    parser.add_argument("--failures", action="store_true", help="print only what fails")
    arguments = parser.parse(list(argv))
    if arguments.clips < 0:
        parser.error(f"--clips: got {arguments.clips}, wanted 0 or more")
    if arguments.digest is not None and not is_digest(arguments.digest):
        parser.error(f"--digest: got {arguments.digest!r}, wanted the 64 hex digits that run.py printed last")
    return arguments


def is_digest(text: str) -> bool:
    return len(text.strip()) == 64 and all(letter in "0123456789abcdef" for letter in text.strip().lower())


def run(arguments: argparse.Namespace) -> int:
    from lavita.audit.files import digest_line
    from lavita.audit.run import audit, fails_closed, page_lines, strictly
    from lavita.results.audit_line import FAIL, NOT_APPLICABLE, PASS
    from lavita.results.run_folder import read_run

    folder = read_run(arguments.folder)
    lines = audit(folder)
    lines += page_lines(folder, lines)
    if arguments.strict:
        lines = strictly(folder, lines)
    if arguments.digest:
        lines.append(digest_line(folder, arguments.digest))
    if arguments.clips:
        from lavita.audit.features import feature_lines

        lines += feature_lines(folder, arguments.clips)
    words = {PASS: "pass", FAIL: "FAIL", NOT_APPLICABLE: "n/a"}
    for line in lines:
        if line.verdict == FAIL or not arguments.failures:
            print(f"{words[line.verdict]:{WIDTH}} {line.check}: {line.where}: {line.text}")
    failed = sum(line.verdict == FAIL for line in lines)
    others = other_commits(folder)
    if failed and others:
        print(f"this checkout is not the run's code (commit {others}): tables and page may only be written otherwise")
    print(f"{len(lines)} checks, {failed} failed; digest {folder.digest}")
    return 1 if fails_closed(folder, lines) else 0


def other_commits(folder) -> str:
    """The commits of the rows, where they are not that of this checkout; else ''."""
    from lavita.results.provenance import commit

    commits = {record.row.commit for record in folder.records} - {"", commit()[0]}
    return ", ".join(sorted(name[:12] for name in commits))


def main(argv: Sequence[str], prog: str = "lavita audit") -> int:
    """Run the command with its arguments; returns the exit status."""
    arguments = parse(argv, prog)
    return exit_status(prog, lambda: run(arguments))
