"""What a task's process says: events, one a line of its log, and a heartbeat file that shows that it is not hung."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lavita.console import Note, Plan, Progress
from lavita.results.provenance import peak_bytes

MARK = "@lavita "  # how the line of an event begins
REPEAT_SECONDS = 1.0  # between two lines of how far a stage is: logs of days stay small


@dataclass(frozen=True)
class Result:
    """The last event of a process. status: as of a record, or "stale"; external: sha256 of external files, by key;
    flops: what training will cost a run, by the name of its row.
    """

    status: str
    reason: str = ""
    external: Mapping[str, str] = field(default_factory=dict)
    flops: Mapping[str, float] = field(default_factory=dict)


Event = Progress | Note | Plan | Result
KINDS: Mapping[str, type[Event]] = {"progress": Progress, "note": Note, "plan": Plan, "result": Result}


def emit(event: Event) -> None:
    """Print an event as one line of JSON; `read_event` reads it again."""
    kind = next(kind for kind, event_type in KINDS.items() if isinstance(event, event_type))
    sys.stdout.write(MARK + json.dumps({"kind": kind} | asdict(event)) + "\n")
    sys.stdout.flush()


def read_event(line: str) -> Event | None:
    """The event in a line of output; None for ordinary text."""
    if not line.startswith(MARK):
        return None
    try:
        values = json.loads(line[len(MARK) :])
        return KINDS[values.pop("kind")](**values)
    except (ValueError, AttributeError, KeyError, TypeError):
        return None  # text that only begins like an event


class EventTail:
    """Follows the log of a process on another machine from its present end. result: the last one that was seen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = path.stat().st_size if path.is_file() else 0
        self.result: Result | None = None

    def events(self) -> Iterator[Event]:
        """The events in the lines that have become whole since the last call."""
        if not self.path.is_file():
            return
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            event = read_event(line)
            if isinstance(event, Result):
                self.result = event
            if event is not None:
                yield event


HEARTBEAT = "heartbeat.json"
BEAT_SECONDS = 0.2  # between two writes of the file


@dataclass(frozen=True)
class Beat:
    """What the heartbeat file says. done: clips of the stage; seconds: since the process began; peak_bytes: memory."""

    stage: str
    done: float
    beats: int
    seconds: float
    peak_bytes: int


class Heartbeat:
    """Writes where this process is, at most every BEAT_SECONDS."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = time.monotonic()
        self.written = -BEAT_SECONDS
        self.beats = 0

    @property
    def seconds(self) -> float:
        """Seconds since this process began its work."""
        return time.monotonic() - self.began

    def beat(self, stage: str, done: float) -> None:
        """Say that a stage has come to `done`."""
        self.beats += 1
        if self.seconds - self.written < BEAT_SECONDS:
            return
        self.written = self.seconds
        # Not flushed to the disk as a result is: a heartbeat that is lost is no loss.
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(json.dumps(asdict(Beat(stage, done, self.beats, self.seconds, peak_bytes()))) + "\n")
        part.replace(self.path)


def read_heartbeat(path: Path) -> Beat | None:
    """The last beat in a file, or None: after a power cut the file may hold anything."""
    try:
        beat = Beat(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    numbers = (beat.done, beat.beats, beat.seconds, beat.peak_bytes)
    return beat if isinstance(beat.stage, str) and all(isinstance(n, int | float) for n in numbers) else None


class _Process:
    """This process: its heartbeat where it has one, and the stage that was last printed, with the moment."""

    heartbeat: Heartbeat | None = None
    stage, moment = "", 0.0


def start_heartbeat(path: Path) -> Heartbeat:
    """From now on `progress` writes to path."""
    _Process.heartbeat = Heartbeat(path)
    return _Process.heartbeat


def progress(
    stage: str,
    done: float,
    total: float,
    loss: float | None = None,
    step: int | None = None,
    steps: int | None = None,
) -> None:
    """How far a stage is, in clips: a beat, and now and then an event. May be called as often as one likes."""
    if _Process.heartbeat is not None:
        _Process.heartbeat.beat(stage, done)
    if done < total and stage == _Process.stage and time.monotonic() - _Process.moment < REPEAT_SECONDS:
        return
    _Process.stage, _Process.moment = stage, time.monotonic()
    emit(Progress(stage, done, total, loss, step, steps))


def progress_of_steps(clips_per_step: float) -> Callable[[str, float, float, float], None]:
    """`progress` of a stage that is trained, with its steps, each of so many clips."""

    def report(stage: str, done: float, total: float, loss: float) -> None:
        steps = math.ceil(round(total / clips_per_step, 6))  # what rounding adds is no step
        progress(stage, done, total, loss, round(done / clips_per_step), steps)

    return report
