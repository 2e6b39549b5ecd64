"""The in-domain extractors that are kept with this package, and which data and setting each of them is for.

A fit is not the same on two kinds of processor, so for the data of which documents print numbers it was done once. The
data is recognised by its training videos' ids, lengths, classes and outlines. A hash of files or of frames would
not find it again: the same pictures give other files with another encoder, other levels on another processor.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from lavita.config.schema import read
from lavita.data.catalogue import VideoEntry
from lavita.data.clips import span
from lavita.files import atomic_write_text, sha256_of
from lavita.metrics.features.in_domain import InDomainExtractor, save_in_domain
from lavita.metrics.features.stretches import STRETCH_SPANS, Stretches, read_stretches
from lavita.results.rows import csv_text, text_of
from lavita.shapes import check

FOLDER = Path(__file__).parent / "fitted"
BLOCKS = 4  # a side: an outline has the mean and the deviation of so many blocks by so many
# Grey levels by which outlines of the same pictures may differ: see docs/scoring.md.
TOLERANCE = 3
COLUMNS = ("video_id", "class_index", "frames", "outline")
MEND = "restore it (git checkout, or install again), or fit anew: lavita extractors --fit"


@dataclass(frozen=True)
class FitSetting:
    """What decides a fit beside the videos. num_classes: None where the data has no classes."""

    frames: int
    interval: int
    resolution: int
    flip: bool
    steps: int
    num_classes: int | None


@dataclass(frozen=True)
class KnownVideo:
    """A training video. frames: how many of it a fit reads; outline: of these, as hexadecimal digits."""

    video_id: str
    class_index: int | None
    frames: int
    outline: str


@dataclass(frozen=True)
class PublishedExtractor:
    """file: the weights (.safetensors), with what the fit was told beside it (.json) and its videos (.csv)."""

    name: str
    file: Path
    sha256: str
    setting: FitSetting
    videos: tuple[KnownVideo, ...]

    def copy_to(self, folder: Path) -> None:
        """Put weights and facts into a folder as extractor.safetensors and extractor.json."""
        for suffix in (".safetensors", ".json"):
            shutil.copyfile(self.file.with_suffix(suffix), folder / f"extractor{suffix}")


def outline(frames: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of each colour in 4 x 4 blocks of the first, middle and last frame.

    frames: uint8 (L, H, W, 3), 0..255, H and W multiples of 4. Returns uint8 (3, 2, 4, 4, 3), in grey levels. Raises
    ValueError for another shape.
    """
    size = check(frames, "L H W 3", "frames", dtype=np.uint8)
    if size["H"] % BLOCKS or size["W"] % BLOCKS:
        raise ValueError(f"outline: got frames of {size['W']}x{size['H']}, wanted multiples of {BLOCKS}")
    chosen = frames[[0, size["L"] // 2, size["L"] - 1]].astype(np.float64)
    blocks = chosen.reshape(3, BLOCKS, size["H"] // BLOCKS, BLOCKS, size["W"] // BLOCKS, 3)
    figures = np.stack([blocks.mean(axis=(2, 4)), blocks.std(axis=(2, 4))], axis=1)  # (3, 2, 4, 4, 3)
    return figures.round().astype(np.uint8)


def known_videos(stretches: Stretches, setting: FitSetting) -> tuple[KnownVideo, ...]:
    """The videos of a fit as they are recorded, in its order."""
    found = []
    for video, frames in zip(stretches.videos, stretches.frames, strict=True):
        label = video.class_index if setting.num_classes else None
        found.append(KnownVideo(video.video_id, label, len(frames), outline(frames).tobytes().hex()))
    return tuple(found)


def find_published(
    videos: Sequence[VideoEntry], setting: FitSetting, report: Callable[[int, int], None], folder: Path = FOLDER
) -> PublishedExtractor | None:
    """The extractor that was fitted to these training videos in this setting; None where there is none.

    Videos are read only where ids, lengths and classes are those of one. report: videos read, of how many. Raises
    ValueError, one line, for a damaged file; UnreadableVideo.
    """
    for one in published(folder):
        if one.setting == setting and listed_alike(one.videos, videos, setting):
            stretches = read_stretches(videos, setting.frames, setting.interval, setting.resolution, report)
            if alike(one.videos, known_videos(stretches, setting)):
                check_hash(one.name, one.file, one.sha256)
                return one
    return None


def listed_alike(recorded: Sequence[KnownVideo], videos: Sequence[VideoEntry], setting: FitSetting) -> bool:
    """Whether videos, of which no frame was read yet, have the ids, classes and lengths of the recorded ones."""
    if len(recorded) != len(videos):
        return False  # of a million videos nothing more is asked
    longest = STRETCH_SPANS * span(setting.frames, setting.interval)
    return all(
        known.video_id == video.video_id
        and known.class_index == (video.class_index if setting.num_classes else None)
        and known.frames == min(video.frames, longest)
        for known, video in zip(recorded, videos, strict=True)
    )


def alike(recorded: Sequence[KnownVideo], found: Sequence[KnownVideo]) -> bool:
    """Whether videos are the recorded ones: outlines that differ by at most TOLERANCE grey levels."""
    sides = [np.stack([np.frombuffer(bytes.fromhex(v.outline), np.uint8) for v in side]) for side in (recorded, found)]
    return bool(abs(sides[0].astype(int) - sides[1]).max() <= TOLERANCE)


def published(folder: Path = FOLDER) -> list[PublishedExtractor]:
    """All that are kept, by name. Raises ValueError, one line, for a damaged .json or .csv."""
    return [read_published(folder / f"{name}.json") for name in sorted({path.stem for path in folder.iterdir()})]


def read_published(path: Path) -> PublishedExtractor:
    """The one of a .json. Raises ValueError, one line, where it or its .csv is damaged."""
    name, listed = path.stem, path.with_suffix(".csv")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        setting = read(FitSetting, {field.name: facts[field.name] for field in fields(FitSetting)}, name)
        weights, videos = facts["weights_sha256"], facts["videos_sha256"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"extractor {name}: {path} can't be read ({' '.join(reason.split())}); {MEND}") from None
    check_hash(name, listed, videos)
    with open(listed, encoding="utf-8", newline="") as file:
        rows = [
            KnownVideo(row["video_id"], int(row["class_index"]) if row["class_index"] else None, int(row["frames"]),
                       row["outline"])
            for row in csv.DictReader(file)
        ]  # fmt: skip
    return PublishedExtractor(name, path.with_suffix(".safetensors"), weights, setting, tuple(rows))


def check_hash(name: str, path: Path, wanted: str) -> None:
    """Raise ValueError, one line, unless a file has the recorded sha256."""
    found = sha256_of(path) if path.is_file() else "no file"
    if found != wanted:
        raise ValueError(
            f"extractor {name}: {path} is damaged: sha256 {found[:12]}, its .json says {str(wanted)[:12]}; {MEND}"
        )


def write_published(
    name: str, extractor: InDomainExtractor, stretches: Stretches, setting: FitSetting, folder: Path = FOLDER
) -> PublishedExtractor:
    """Keep a fitted extractor with what it is for: <name>.csv, .safetensors and, last, .json in a folder."""
    listed = folder / f"{name}.csv"
    rows = [[text_of(value) for value in astuple(video)] for video in known_videos(stretches, setting)]
    atomic_write_text(listed, csv_text([list(COLUMNS), *rows]))
    extractor.facts = extractor.facts | {"videos_sha256": sha256_of(listed)}
    save_in_domain(extractor, listed.with_suffix(".safetensors"))
    return read_published(listed.with_suffix(".json"))
