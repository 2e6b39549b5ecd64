"""A file that says where a process is: proof that it goes on, and what is known of one that was killed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lavita.runner.provenance import peak_bytes

PULSE = "pulse.json"
EVERY_SECONDS = 0.2


class Pulse:
    """Writes stage, how far it is, seconds of this process and its peak memory, at most every EVERY_SECONDS."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = time.monotonic()
        self.written = -EVERY_SECONDS
        self.beats = 0

    @property
    def seconds(self) -> float:
        """Seconds since this process began its work."""
        return time.monotonic() - self.began

    def beat(self, stage: str, done: float) -> None:
        """Say that stage has come to `done`."""
        self.beats += 1
        if self.seconds - self.written < EVERY_SECONDS:
            return
        self.written = self.seconds
        state = {"stage": stage, "done": done, "beats": self.beats, "seconds": self.seconds, "peak_bytes": peak_bytes()}
        # Not stored as safely as a result is: a sign of life that is lost is no loss.
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(json.dumps(state) + "\n")
        part.replace(self.path)


class _Ours:
    """The pulse of this process, where it has one."""

    pulse: Pulse | None = None


def start_pulse(path: Path) -> Pulse:
    """From now on `beat` writes to path."""
    _Ours.pulse = Pulse(path)
    return _Ours.pulse


def beat(stage: str, done: float) -> None:
    """Say where this process is, where somebody wants to know."""
    if _Ours.pulse is not None:
        _Ours.pulse.beat(stage, done)


def read_pulse(path: Path) -> dict[str, Any] | None:
    """The last sign of life in a file, or None: it is not stored safely, so it may be anything."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("stage"), str):
        return None
    numbers = (found.get(key) for key in ("done", "beats", "seconds", "peak_bytes"))
    return found if all(isinstance(number, int | float) for number in numbers) else None
