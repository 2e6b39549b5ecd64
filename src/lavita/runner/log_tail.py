"""The events in a log that another process writes, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lavita.runner.events import parse


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
