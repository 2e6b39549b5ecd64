"""A file that says where a process is: proof that it goes on, and what is known of one that was killed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lavita.results.provenance import peak_bytes

HEARTBEAT = "pulse.json"
EVERY_SECONDS = 0.2


class Heartbeat:
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

    pulse: Heartbeat | None = None


def start_heartbeat(path: Path) -> Heartbeat:
    """From now on `beat` writes to path."""
    _Ours.pulse = Heartbeat(path)
    return _Ours.pulse


def beat(stage: str, done: float) -> None:
    """Say where this process is, where somebody wants to know."""
    if _Ours.pulse is not None:
        _Ours.pulse.beat(stage, done)


def read_heartbeat(path: Path) -> dict[str, Any] | None:
    """The last sign of life in a file, or None: it is not stored safely, so it may be anything."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("stage"), str):
        return None
    numbers = (found.get(key) for key in ("done", "beats", "seconds", "peak_bytes"))
    return found if all(isinstance(number, int | float) for number in numbers) else None


MARK = "@lavita "
QUIET_SECONDS = 1.0  # between two lines of how far a stage is: logs of days stay small


class _Last:
    """Which stage was last told of, and when."""

    stage, moment = "", 0.0


def emit(kind: str, **values: object) -> None:
    """Print one event; the reader of the line is lavita.executors.process."""
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


class LogTail:
    """Follows a log from its present end. result: the last "result" event that was seen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = path.stat().st_size if path.is_file() else 0
        self.result: dict[str, Any] | None = None

    def events(self) -> Iterator[dict[str, Any]]:
        """The events of the lines that have become whole since the last call."""
        if not self.path.is_file():
            return
        with open(self.path, "rb") as file:
            file.seek(self.at)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            event = parse(line)
            if event is None:
                continue
            if event["kind"] == "result":
                self.result = event
            yield event
