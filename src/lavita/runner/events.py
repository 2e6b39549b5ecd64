"""What a cell's process tells the one that started it: one line of JSON an event, on standard output."""

from __future__ import annotations

import json
import sys
import time

from lavita.runner.pulse import beat

MARK = "@lavita "
QUIET_SECONDS = 1.0  # between two lines of how far a stage is: logs of days stay small


class _Last:
    """Which stage was last told of, and when."""

    stage, moment = "", 0.0


def emit(kind: str, **values: object) -> None:
    """Print one event; the reader of the line is lavita.runner.launch."""
    sys.stdout.write(MARK + json.dumps({"kind": kind, **values}) + "\n")
    sys.stdout.flush()


def progress(stage: str, done: float, total: float, loss: float | None = None) -> None:
    """How far a stage is, in clips; may be called as often as one likes."""
    beat(stage, done)
    if done < total and stage == _Last.stage and time.monotonic() - _Last.moment < QUIET_SECONDS:
        return
    _Last.stage, _Last.moment = stage, time.monotonic()
    emit("progress", stage=stage, done=done, total=total, loss=loss)


def parse(line: str) -> dict | None:
    """The event in a line of output, or None where it is ordinary text."""
    if not line.startswith(MARK):
        return None
    try:
        return json.loads(line[len(MARK) :])
    except json.JSONDecodeError:
        return None
