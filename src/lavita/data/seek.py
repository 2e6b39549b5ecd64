"""Where decoding of a video file may begin: key frames that were tried, so that a far window need not begin at frame 0.

A time stamp alone proves nothing: files have one key frame, stamps out of order, dropped frames, leading frames
that need an earlier picture. So an entry is a frame's number and stamp, taken from a decode of the whole file, and it
counts only if seeking to it gave that very picture and the ones after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

SPACING = 8  # frames from one entry to the next, at least: files of key frames only would have one per frame
CHECKED = 3  # frames that are compared at each entry
MOST_LEADING = 64  # frames that a decoder may put out before the one that was sought


class Entry(NamedTuple):
    """frame: its number, from 0; pts: its time stamp, in units of the stream's time base."""

    frame: int
    pts: int


class LostEntry(Exception):
    """Seeking did not lead to the frame of an entry."""


class Timeline:
    """What a decode of a whole file showed: every time stamp, which frames are key frames, what follows these."""

    def __init__(self) -> None:
        self.stamps: list[int | None] = []
        self.keys: list[int] = []
        self.sums: dict[int, int] = {}
        self._converter = VideoReformatter()

    @property
    def num_frames(self) -> int:
        return len(self.stamps)

    def add(self, frame: av.VideoFrame) -> None:
        """Take note of the next frame."""
        number = len(self.stamps)
        self.stamps.append(frame.pts)
        if frame.key_frame and (not self.keys or number - self.keys[-1] >= SPACING):
            self.keys.append(number)
        # Frame 0 needs no entry, and its neighbours no sum.
        if self.keys and self.keys[-1] > 0 and number - self.keys[-1] < CHECKED:
            self.sums[number] = self._sum(frame)

    def candidates(self) -> list[Entry]:
        """Key frames after the first whose stamp is above all earlier and below all later ones."""
        stamps = np.array([np.nan if stamp is None else stamp for stamp in self.stamps])
        if len(self.keys) < 2 or np.isnan(stamps).any():
            return []
        before = np.maximum.accumulate(stamps)  # (frames,)
        after = np.minimum.accumulate(stamps[::-1])[::-1]  # (frames,)
        return [
            Entry(key, self.stamps[key])
            for key in self.keys
            if key > 0 and before[key - 1] < stamps[key] and (key + 1 == len(stamps) or stamps[key] < after[key + 1])
        ]

    def agrees(self, number: int, frame: av.VideoFrame) -> bool:
        """Whether a frame has the stamp and the picture that frame `number` had."""
        return frame.pts == self.stamps[number] and self._sum(frame) == self.sums[number]

    def _sum(self, frame: av.VideoFrame) -> int:
        """CRC-32 of a frame's RGB pixels, which are what is read in the end."""
        return zlib.crc32(self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray())


def from_entry(frames: Iterator[av.VideoFrame], entry: Entry) -> Iterator[av.VideoFrame]:
    """The frames from that of an entry on. Raises LostEntry where it does not come."""
    for frame, _ in zip(frames, range(MOST_LEADING), strict=False):
        if frame.pts == entry.pts:
            return chain((frame,), frames)
        if frame.pts is None or frame.pts > entry.pts:
            break
    raise LostEntry


def pack(entries: Sequence[Entry]) -> bytes:
    """Entries in 16 bytes each: a catalogue may hold those of a million videos."""
    return np.array(entries, dtype="<i8").tobytes()


def unpack(packed: bytes) -> list[Entry]:
    """The entries that `pack` packed."""
    return [Entry(int(frame), int(pts)) for frame, pts in np.frombuffer(packed, "<i8").reshape(-1, 2)]


def nearest(packed: bytes, frame: int) -> Entry | None:
    """The last entry that is not beyond a frame; None means the start of the file."""
    table = np.frombuffer(packed, "<i8").reshape(-1, 2)  # (entries, 2)
    place = int(np.searchsorted(table[:, 0], frame, side="right"))
    return Entry(int(table[place - 1, 0]), int(table[place - 1, 1])) if place else None
