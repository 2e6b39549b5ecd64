"""Clips as a protocol sees them: which of the items, which of their frames, at which size, through which codec."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lavita.data.clip import centre_crop_resize, frame_indices, span, window_starts
from lavita.score.clip_items import ClipItem
from lavita.score.frame_codec import through
from lavita.score.protocol import Protocol


class Pick(NamedTuple):
    """A clip to score: the item's position, and its first frame there (None: to be drawn when its length is known)."""

    item: int
    start: int | None


def picks(items: Sequence[ClipItem], protocol: Protocol, real: bool) -> list[Pick]:
    """The clips that are scored, in the order of the items: as many as the protocol says, each once.

    Generated: the first by name, from their first frame. Real: by the protocol's selection and seed. Raises TooFew,
    which says how many are missing.
    """
    n = protocol.n_real if real else protocol.n_generated
    every = [Pick(position, None if real else 0) for position in range(len(items))]
    cap = protocol.windows_per_video
    if real and protocol.clip_selection in ("windows", "every-window"):
        every = [pick for position, item in enumerate(items) for pick in _windows(position, item, protocol, cap)]
    if len(every) < n:
        kind = "real" if real else "generated"
        raise TooFew(
            f"protocol {protocol.name} scores {n} {kind} clips, there are {len(every)}: {n - len(every)} are missing; "
            f"give more, or score fewer under a name of its own (--clips {len(every)})"
        )
    if not real or protocol.clip_selection == "sorted-random-start":
        return every[:n]
    rng = np.random.default_rng([protocol.clip_seed, len(every)])
    if protocol.clip_selection == "windows":
        drawn = _round_by_round(every, rng.permutation(len(every)))[:n]
    else:
        drawn = rng.permutation(len(every))[:n]
    return [every[position] for position in sorted(drawn)]


def spread_picks(items: Sequence[ClipItem], protocol: Protocol, most: int) -> list[Pick]:
    """Windows of all items, spread evenly over them, at most `most`: what is known of a whole split."""
    every = [pick for position, item in enumerate(items) for pick in _windows(position, item, protocol, None)]
    rng = np.random.default_rng([protocol.clip_seed, len(every)])
    return [every[position] for position in sorted(_round_by_round(every, rng.permutation(len(every)))[:most])]


class TooFew(ValueError):
    """Fewer clips than the protocol scores: an error, never a smaller number quietly."""


def _round_by_round(every: Sequence[Pick], order: Sequence[int]) -> list[int]:
    """A drawn order with the first window of each item before the second of any: n are spread as evenly as can be."""
    seen: Counter[int] = Counter()
    turns = []
    for position in order:
        turns.append((seen[every[position].item], len(turns), int(position)))
        seen[every[position].item] += 1
    return [position for _, _, position in sorted(turns)]


def _windows(position: int, item: ClipItem, protocol: Protocol, cap: int | None) -> list[Pick]:
    """The non-overlapping windows of an item, `cap` at most, or the item itself where it is cut to F frames already."""
    frames = item.count()
    if frames == protocol.frames:
        return [Pick(position, 0)]
    starts = window_starts(frames, protocol.frames, protocol.real_interval)
    return [Pick(position, start) for start in starts[:cap]]


def view(item: ClipItem, frames: np.ndarray, protocol: Protocol, real: bool, pick: Pick) -> np.ndarray:
    """An item's frames, uint8 (V, H, W, 3), as a clip that is scored: uint8 (F, side, side, 3), 0..255.

    An item of exactly F frames is a clip that was cut before. A longer one is cut here at the protocol's interval, real
    ones where no start is given from one drawn by the protocol's seed. Raises ValueError for an item too short.
    """
    f = protocol.frames
    if len(frames) != f:
        interval = protocol.real_interval if real else protocol.generated_interval
        length = span(f, interval)
        if len(frames) < length:
            raise ValueError(
                f"clip {item.name}: {len(frames)} frames; protocol {protocol.name} takes {f} at interval {interval}, "
                f"which span {length} (or clips cut to exactly {f})"
            )
        start = pick.start
        if start is None:
            start = int(np.random.default_rng([protocol.clip_seed, 1, pick.item]).integers(len(frames) - length + 1))
        frames = frames[frame_indices(start, f, interval)]
    if protocol.crop == "none" and frames.shape[1] != frames.shape[2]:
        raise ValueError(f"clip {item.name}: {frames.shape[2]}x{frames.shape[1]} pixels, crop none wants square frames")
    if protocol.resize_where == "loader":
        frames = centre_crop_resize(frames, protocol.resolution)
    codec = protocol.real_codec if real else protocol.generated_codec
    return through(codec, item.stored, frames)
