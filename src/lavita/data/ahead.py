"""Work in threads, ahead of need: decoding, resizing and encoding of videos hold no lock of Python's."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

AHEAD = 8  # items worked on before they are wanted: what is ready and waits is in memory
MOST_THREADS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def part_of_cores(processes: int, most: int) -> int:
    """Cores of each of so many processes on this machine: 1 at least, `most` at most."""
    return max(1, min(most, usable_cores() // max(processes, 1)))


def usual_threads(processes: int = 1) -> int:
    """Of each of so many processes."""
    return part_of_cores(processes, MOST_THREADS)


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None, ahead: int = AHEAD
) -> Iterator[Result]:
    """work(item) of each item, in their order; up to `ahead` are worked on before they are wanted.

    threads: None for as many as is usual. Items are taken from their iterable in this thread, as they are needed. An
    error in work is raised where its result is wanted; what was begun then ends first, what was not is dropped.
    """
    source, waiting = iter(items), deque[Future]()
    pool = ThreadPoolExecutor(threads or usual_threads())
    try:
        waiting += (pool.submit(work, item) for item in islice(source, ahead))
        while waiting:
            yield waiting.popleft().result()
            waiting += (pool.submit(work, item) for item in islice(source, 1))
    finally:
        pool.shutdown(cancel_futures=True)


class InOrder:
    """work(k) of k = 0 .. total - 1, asked for in slices; those that follow each other are worked on ahead over their
    borders, too. To be closed, which ends its threads.
    """

    def __init__(self, work: Callable[[int], Result], total: int) -> None:
        self.work, self.total = work, total
        self.position, self.results = 0, iter(())

    def __getitem__(self, part: slice) -> Iterator[Result]:
        """The results of a slice, each as soon as it is wanted."""
        if part.start != self.position or not self.position:
            self.close()
            self.position, self.results = part.start, in_threads(self.work, range(part.start, self.total))
        for result in islice(self.results, part.stop - part.start):
            self.position += 1
            yield result

    def close(self) -> None:
        if isinstance(self.results, Generator):
            self.results.close()
