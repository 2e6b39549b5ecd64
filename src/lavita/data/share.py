"""Which clips of every pass are a process's own, where several train together."""

from __future__ import annotations

from collections.abc import Iterator


class ClipShare:
    """Clip indices start .. stop - 1 that a process reads: of each pass of `batch` clips the rank-th of `world` equal
    parts, in order. Alone these are all.

    So a pass is the same clips whatever the number of processes, and with it every batch: all its indices lie between
    a batch's first and the next one's. Raises ValueError where world does not divide batch.
    """

    def __init__(self, start: int, stop: int, batch: int, rank: int, world: int) -> None:
        if batch % world:
            raise ValueError(f"a pass of {batch} clips does not go into {world} processes")
        self.firsts = range(start + rank * (batch // world), stop, batch)
        self.part = batch // world

    def __iter__(self) -> Iterator[int]:
        for first in self.firsts:
            yield from range(first, first + self.part)

    def __len__(self) -> int:
        return len(self.firsts) * self.part
