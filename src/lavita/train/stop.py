"""A process that is asked to end (SIGTERM) does so at the next place where nothing is lost."""

from __future__ import annotations

import signal
from typing import Any


class Stopped(Exception):
    """The process was asked to end, and what it had done is kept."""


class _Asked:
    """Whether a signal has come; one for the process, as signals are."""

    yes = False


def listen() -> None:
    """From now on SIGTERM is remembered for `check`; to be called again where a library has put its own handler."""
    signal.signal(signal.SIGTERM, _remember)


def _remember(*_: Any) -> None:
    _Asked.yes = True


def asked() -> bool:
    """Whether the process was asked to end."""
    return _Asked.yes


def check() -> None:
    """Raise Stopped where the process was asked to end: to be called where all that was made is kept."""
    if _Asked.yes:
        raise Stopped("asked to stop")
