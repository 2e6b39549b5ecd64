"""Where a run reads and writes, what it starts processes with, and where it says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lavita.registry import ROOT
from lavita.runner.display import Display
from lavita.runner.launch import Launcher


@dataclass(frozen=True)
class Work:
    """folder: of the results; cache: of what is fitted once; workers: processes at a time."""

    folder: Path
    cache: Path
    workers: int
    launcher: Launcher
    display: Display

    def in_turn(self, tasks: Sequence[Callable[[int], Any]]) -> list[Any]:
        """Results of the tasks in their order, `workers` at a time; each is told which worker runs it."""
        free: SimpleQueue[int] = SimpleQueue()
        for worker in range(self.workers):
            free.put(worker)

        def call(task: Callable[[int], Any]) -> Any:
            worker = free.get()
            try:
                return task(worker)
            finally:
                free.put(worker)

        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(call, task) for task in tasks]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                self.launcher.stop()
                raise


def shown(path: Path) -> str:
    """A path as short as can be: relative to the checkout where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
