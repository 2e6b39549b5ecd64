"""Features of one side of a comparison, gathered in clip order, kept as files that scores can be recomputed from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lavita.config.protocol import Protocol
from lavita.data.ahead import in_threads
from lavita.metrics.clips import ClipItem, Pick, picked_frames, view
from lavita.metrics.features.base import Extractor, FrameExtractor
from lavita.metrics.sanity import Sensitivity


@dataclass
class ExtractedFeatures:
    """What is known of the clips of one side under one protocol, one row per clip, in clip order.

    features: float32 (n, d), probabilities: float32 (n, K), frame_features: float32 (n, F, d); pixels: sha256 of each
    clip as it was scored.
    """

    names: list[str] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    frame_features: list[np.ndarray] = field(default_factory=list)
    pixels: list[str] = field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        """The contents of the file of this side: names, pixels and, where there are any, features, probabilities."""
        found = {"names": np.array(self.names), "pixels": np.array(self.pixels)}
        for key in ("features", "probabilities", "frame_features"):
            rows = getattr(self, key)
            if rows:
                found[key] = np.stack(rows).astype(np.float32)
        return found

    def fingerprint(self) -> str:
        """sha256 over name and pixels of every clip, in order: which clips a score is of."""
        text = "".join(f"{name} {pixels}\n" for name, pixels in zip(self.names, self.pixels, strict=True))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Networks:
    """The feature networks of a protocol, by use; None where none is wanted."""

    real: Extractor | None
    generated: Extractor | None
    classes: Extractor | None
    frames: FrameExtractor | None = None


@dataclass
class Job:
    """One protocol's share of a pass over the items of a side.

    sensitivity: gathers the features of corrupted clips too, for the sanity rows; None where they are not wanted.
    """

    protocol: Protocol
    networks: Networks
    picks: Sequence[Pick]
    sensitivity: Sensitivity | None = None
    features: ExtractedFeatures = field(default_factory=ExtractedFeatures)


def extract(
    items: Sequence[ClipItem], jobs: Sequence[Job], real: bool, workers: int, report: Callable[[int, int], None]
) -> None:
    """Fill the jobs: every item is decoded once, whatever the number of protocols, ahead of need in `workers` threads.

    Only the frames of WINDOWS windows of an item are in memory at a time, in each thread; of an item with more windows
    each lot is decoded anew. Clips that two protocols see alike are extracted once. Raises ValueError naming the clip.
    """
    lots = list(_lots(jobs))
    num_items = len({lot.item for lot in lots})
    decoded = in_threads(lambda lot: _clips(items[lot.item], lot, real), lots, workers)
    done = 0
    for lot, clips in zip(lots, decoded, strict=True):
        known: dict[tuple[str, int], np.ndarray] = {}
        for (job, pick), clip in zip(lot.picks, clips, strict=True):
            _extract_clip(job, items[lot.item], clip, pick, real, known)
        if lot.last:
            done += 1
            report(done, num_items)


WINDOWS = 4  # of an item, decoded together


@dataclass(frozen=True)
class Lot:
    """What is decoded together: windows of one item, for all protocols; last: none of the item follows."""

    item: int
    picks: list[tuple[Job, Pick]]
    last: bool


def _lots(jobs: Sequence[Job]) -> Iterator[Lot]:
    by_item: dict[int, list[tuple[Job, Pick]]] = {}
    for job in jobs:
        for pick in job.picks:
            by_item.setdefault(pick.item, []).append((job, pick))
    for item in sorted(by_item):
        # By their first frames: two protocols' same window is in one lot, and a job's windows stay in order.
        starts = sorted({-1 if pick.start is None else pick.start for _, pick in by_item[item]})
        for first in range(0, len(starts), WINDOWS):
            wanted = set(starts[first : first + WINDOWS])
            picks = [(job, pick) for job, pick in by_item[item] if (-1 if pick.start is None else pick.start) in wanted]
            yield Lot(item, picks, first + WINDOWS >= len(starts))


def _clips(item: ClipItem, lot: Lot, real: bool) -> list[np.ndarray]:
    """The clips of a lot as they are scored, each uint8 (F, side, side, 3)."""
    indices = [picked_frames(item, job.protocol, real, pick) for job, pick in lot.picks]
    needed = sorted({index for one in indices for index in one})
    frames, place = item.read(needed), {index: number for number, index in enumerate(needed)}
    return [
        view(item, frames[[place[index] for index in one]], job.protocol, real)
        for (job, _), one in zip(lot.picks, indices, strict=True)
    ]


def _extract_clip(
    job: Job, item: ClipItem, clip: np.ndarray, pick: Pick, real: bool, known: dict[tuple[str, int], np.ndarray]
) -> None:
    """clip: uint8 (F, side, side, 3)."""
    pixels = hashlib.sha256(clip.tobytes()).hexdigest()
    network = job.networks.real if real else job.networks.generated

    def rows(call: Callable, owner: Extractor | FrameExtractor, shown: np.ndarray, mark: str) -> np.ndarray:
        key = (f"{call.__name__} {mark}", id(owner))
        if key not in known:
            found = call(shown[None]).numpy()
            known[key] = found if owner is job.networks.frames else found[0]
            if not np.isfinite(known[key]).all():
                raise ValueError(f"clip {item.name}: its {call.__name__} by {owner.name} are not finite")
        return known[key]

    side = job.features
    cut = "" if pick.start is None or item.count() == job.protocol.frames else f"@{pick.start}"
    side.names.append(item.name + cut)
    side.pixels.append(pixels)
    if network is not None:
        side.features.append(rows(network.features, network, clip, pixels))
    if job.sensitivity is not None:
        job.sensitivity.add(clip, side.features[-1] if network is not None else None)
    classes = job.networks.classes
    if classes is not None:
        side.probabilities.append(rows(classes.probabilities, classes, clip, pixels))
    encoder = job.networks.frames
    if encoder is not None:
        side.frame_features.append(rows(encoder.frame_features, encoder, clip, pixels))


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Write an .npz whole or not at all; returns its sha256."""
    from lavita.files import atomic_write, sha256_of

    def fill(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **arrays)

    atomic_write(path, fill)
    return sha256_of(path)


def load_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """The arrays of an .npz, never unpickled."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
