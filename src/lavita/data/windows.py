"""Which windows of the real videos a score is made from, and their pixels. Needs no training framework."""

from __future__ import annotations

import numpy as np

from .catalogue import Catalogue, VideoEntry
from .clip import centre_crop_resize, frame_indices, window_starts
from .video import read_frames


def real_windows(
    catalogue: Catalogue,
    split: str,
    frames: int,
    interval: int,
    windows_per_video: int | None,
    n: int,
    seed: int,
) -> list[tuple[VideoEntry, int]]:
    """Return n different non-overlapping windows as (video, start frame).

    Round by round every video gives one more window (at most windows_per_video, None: all it has), videos
    and windows in an order drawn from seed: so n windows are spread over the videos as evenly as possible,
    and the first m of them are what m windows would have been. ValueError if there are fewer than n.
    """
    videos = catalogue.split(split)
    rng = np.random.default_rng(seed)
    starts_of = []
    for video in videos:
        starts = window_starts(video.frames, frames, interval)
        starts_of.append([starts[i] for i in rng.permutation(len(starts))][:windows_per_video])
    chosen: list[tuple[VideoEntry, int]] = []
    for turn in range(max((len(starts) for starts in starts_of), default=0)):
        for position in rng.permutation(len(videos)):
            if turn < len(starts_of[position]):
                chosen.append((videos[position], starts_of[position][turn]))
    if len(chosen) < n:
        raise ValueError(_too_few(catalogue, split, frames, interval, windows_per_video, n, len(chosen)))
    return chosen[:n]


def spread_windows(
    catalogue: Catalogue, split: str, frames: int, interval: int, most: int, seed: int
) -> list[tuple[VideoEntry, int]]:
    """As `real_windows`, but as many as there are, at most `most`; [] where no video holds one."""
    videos = catalogue.split(split)
    found = sum(len(window_starts(video.frames, frames, interval)) for video in videos)
    return real_windows(catalogue, split, frames, interval, None, min(found, most), seed)


def load_window(video: VideoEntry, start: int, frames: int, interval: int, resolution: int) -> np.ndarray:
    """The pixels of one window: uint8 (F, resolution, resolution, 3), 0..255. Raises UnreadableVideo."""
    indices = frame_indices(start, frames, interval)
    return centre_crop_resize(read_frames(video.path, indices, video.entries), resolution)


def _too_few(
    catalogue: Catalogue,
    split: str,
    frames: int,
    interval: int,
    windows_per_video: int | None,
    n: int,
    found: int,
) -> str:
    """The message says how many are missing and what would give more."""

    def count(name: str, cap: int | None) -> int:
        starts = (window_starts(video.frames, frames, interval) for video in catalogue.split(name))
        return sum(len(each[:cap]) for each in starts)

    change = [f"ask for at most {found}"]
    if count(split, None) > found:
        change.append(f"raise windows_per_video (without a cap: {count(split, None)})")
    if count("train+heldout", windows_per_video) > found:
        change.append(f"use split train+heldout ({count('train+heldout', windows_per_video)})")
    change.append(f"take a smaller interval or fewer frames than {frames} at interval {interval}, or give more videos")
    cap = "" if windows_per_video is None else f", at most {windows_per_video} a video"
    return (
        f"{catalogue.dataset}, split {split}: got {found} non-overlapping windows of {frames} frames at "
        f"interval {interval}{cap}, from {len(catalogue.split(split))} videos; {n} are wanted, "
        f"{n - found} are missing; {'; or '.join(change)}"
    )
