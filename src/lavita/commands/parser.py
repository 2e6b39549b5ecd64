"""The argument parser of every command: errors are one line, exit status 2, with the nearest flag named."""

from __future__ import annotations

import argparse
import os
import re
import select
import sys
from collections.abc import Callable
from typing import Any

from lavita.config.schema import nearest
from lavita.executors.process import RANK_VARIABLES


class Parser(argparse.ArgumentParser):
    """As argparse's, with the description and examples as they are written and no abbreviated flags."""

    def __init__(self, prog: str, description: str | None = None, epilog: str | None = None, **options: Any) -> None:
        if epilog and prog.endswith(".py"):  # called from a checkout
            epilog = re.sub(r"^( *)lavita (\w+)", r"\1python benchmarks/\2.py", epilog, flags=re.MULTILINE)
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> None:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """The arguments, with flags and overrides in any order; an unknown flag names the nearest known one."""
        arguments, extra = self.parse_known_intermixed_args(argv)
        if extra:
            flags = [string for action in self._actions for string in action.option_strings]
            self.error(f"unknown argument {extra[0]!r}: {nearest(extra[0], flags)}")
        return arguments


def exit_status(prog: str, call: Callable[[], int], interrupted: str = "") -> int:
    """The status that a command's work returns, or 2 after one line on standard error for what the user can mend.

    interrupted: what is said beside "interrupted" after Ctrl-C, which ends with status 130. A reader that closes its
    end of a pipe ends the command without a word, with status 141, as a shell has it of SIGPIPE.
    """
    for name in RANK_VARIABLES:  # no command is a rank: what a cluster's shell says of others must not be believed
        os.environ.pop(name, None)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold bytes that are no text
    try:
        status = call()
        sys.stdout.flush()
        return status
    except ValueError as error:
        print(f"{prog}: {error}", file=sys.stderr)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            return 141
        print(f"{prog}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted{f'; {interrupted}' if interrupted else ''}", file=sys.stderr)
        return 130
    return 2


def reader_is_gone() -> bool:
    """Whether nobody reads standard output any more; what is still to be written there then goes nowhere."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, as in a notebook
        return False
    watch = select.poll()
    watch.register(number, 0)
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return True
