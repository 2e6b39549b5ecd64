"""What a cell's process tells the one that started it: one line of JSON an event, on standard output."""

from __future__ import annotations

import json
import sys

MARK = "@lavita "


def emit(kind: str, **values: object) -> None:
    """Print one event; the reader of the line is lavita.runner.launch."""
    sys.stdout.write(MARK + json.dumps({"kind": kind, **values}) + "\n")
    sys.stdout.flush()


def progress(stage: str, done: int, total: int, loss: float | None = None) -> None:
    """How far a stage is, in clips."""
    emit("progress", stage=stage, done=done, total=total, loss=loss)


def parse(line: str) -> dict | None:
    """The event in a line of output, or None where it is ordinary text."""
    if not line.startswith(MARK):
        return None
    try:
        return json.loads(line[len(MARK) :])
    except json.JSONDecodeError:
        return None
