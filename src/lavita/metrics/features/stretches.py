"""The stretches of training videos that the in-domain extractor learns from: in memory, so of a bounded sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lavita.data.ahead import in_threads
from lavita.data.catalogue import VideoEntry
from lavita.data.clips import load_start, span

STRETCH_SPANS = 4  # of each video its beginning, at most so many clips' spans
MOST_BYTES = 2 * 2**30  # of all stretches together: 950 of 64x64 and 184 frames


@dataclass(frozen=True)
class Stretches:
    """frames: uint8 (L, H, W, 3) of each of the videos; offered: how many training videos there are."""

    videos: list[VideoEntry]
    frames: list[np.ndarray]
    offered: int

    def text(self) -> str:
        """What was taken, in words."""
        longest, size = max(map(len, self.frames)), sum(frames.nbytes for frames in self.frames) / 2**20
        taken, drawn = len(self.videos), ", drawn at random" if len(self.videos) < self.offered else ""
        return f"the first {longest} frames at most of {taken} of {self.offered} training videos{drawn}, {size:.0f} MiB"

    def labels(self) -> list[int | None]:
        """The class of each video."""
        return [video.class_index for video in self.videos]


def read_stretches(
    videos: Sequence[VideoEntry], frames: int, interval: int, resolution: int, report: Callable[[int, int], None]
) -> Stretches:
    """The stretches of as many videos as MOST_BYTES hold, read in threads. Raises UnreadableVideo.

    All videos where they fit, else a sample that depends on their number only; in their order. report: videos read, of
    how many.
    """
    longest, found = STRETCH_SPANS * span(frames, interval), []
    chosen = sample(videos, longest, resolution)
    read = in_threads(lambda video: load_start(video, min(video.frames, longest), resolution), chosen)
    for number, stretch in enumerate(read, start=1):
        found.append(stretch)
        report(number, len(chosen))
    return Stretches(chosen, found, len(videos))


def sample(videos: Sequence[VideoEntry], longest: int, resolution: int) -> list[VideoEntry]:
    """The videos whose first `longest` frames at a resolution fit into MOST_BYTES together, at least one."""
    sizes = np.array([min(video.frames, longest) * 3 * resolution**2 for video in videos], dtype=np.int64)
    if sizes.sum() <= MOST_BYTES:
        return list(videos)
    order = np.random.default_rng([0, len(videos)]).permutation(len(videos))
    fitting = max(1, int(np.searchsorted(np.cumsum(sizes[order]), MOST_BYTES, side="right")))
    return [videos[position] for position in sorted(order[:fitting])]
