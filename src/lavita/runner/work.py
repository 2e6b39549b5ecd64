"""Where a run reads and writes, what it starts processes with, and where it says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lavita.registry import ROOT
from lavita.runner.display import Display
from lavita.runner.launch import Ended
from lavita.runner.local import LocalExecutor
from lavita.runner.task import Task


class Executor(Protocol):
    """Runs tasks, here or elsewhere."""

    def run(self, tasks: Sequence[Task], done: Callable[[Task, Ended], None] = ...) -> list[Ended]:
        """How each task ended, in their order; done is told as each does."""


@dataclass(frozen=True)
class Work:
    """folder: of the results; cache: of what is fitted once; executor: for what takes long; here: for what is short."""

    folder: Path
    cache: Path
    executor: Executor
    here: LocalExecutor
    display: Display


def shown(path: Path) -> str:
    """A path as short as can be: relative to the checkout where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
