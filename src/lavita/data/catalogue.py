"""The videos of a data set as one immutable table: which there are, in which split, which are long enough."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from pathlib import Path

from lavita.config.plain_yaml import read_yaml
from lavita.config.registry import CONFIGS

FOLDER = CONFIGS / "datasets"


@dataclass(frozen=True)
class DatasetFacts:
    """The keys of configs/datasets/<name>.yaml, all of them required.

    name, title: short and full name; layout: which reader in layouts.py; flip: mirrored in training as
    published; has_classes, num_classes: labels of the full set; homepage, how_to_get: where the data comes
    from; expected_tree: drawing of the folders; interval: frame interval as published; short_videos: error
    or skip; fold: of its own lists, null where it has none; frame_choice: exact or linspace; published_counts: videos
    of each split of the full set, as its source states them, with that source. published_videos: how many videos whole
    copies have, train and held-out together, empty where no number is fixed.
    """

    name: str
    title: str
    layout: str
    flip: bool
    has_classes: bool
    num_classes: int | None
    homepage: str
    how_to_get: str
    expected_tree: str
    interval: int
    short_videos: str
    fold: int | None
    frame_choice: str
    published_counts: str
    published_videos: list[int]


def dataset_names() -> tuple[str, ...]:
    """The data sets that have a file in configs/datasets, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def dataset_facts(name: str) -> DatasetFacts:
    """Read configs/datasets/<name>.yaml. Raises ValueError for an unknown set and for an unknown or missing
    key.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in dataset_names():
        raise ValueError(f"got data set '{name}', known: {', '.join(dataset_names())}{_nearest(name, dataset_names())}")
    values = read_yaml(path)
    known = [field.name for field in fields(DatasetFacts)]
    for key in values:
        if key not in known:
            raise ValueError(f"{path}: got key '{key}', known: {', '.join(known)}{_nearest(key, known)}")
    missing = [key for key in known if key not in values]
    if missing:
        raise ValueError(f"{path}: missing key '{missing[0]}', wanted: {', '.join(known)}")
    return DatasetFacts(**values)


def _nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


SPLITS = ("train", "heldout")


@dataclass(frozen=True, slots=True)
class VideoEntry:
    """One video, small in memory, since a catalogue may hold a million.

    path: file or frame folder; group: videos of one source share it and it never stands in both splits;
    class_index counts from 0; split: train or heldout; frames: how many can be decoded; sha256: of its
    content; entries: where decoding may begin (see `video.read_frames`).
    """

    video_id: str
    path: str
    group: str
    class_name: str | None
    class_index: int | None
    split: str
    frames: int = 0
    sha256: str = ""
    entries: bytes = b""


@dataclass(frozen=True)
class Catalogue:
    """The videos of a data set, train before held-out, each sorted by id.

    class_names: by class index, '' where the set's list leaves a gap, () without classes; fingerprint: of
    every video on disk, skipped ones included. Left out of `videos`: num_skipped short ones, num_unreadable that can't
    be read, num_duplicates that repeat another of their split; notes names the last two kinds, a line each, by path
    below root. unused: each of them all the same, since the fingerprint covers it, without its entries.
    """

    dataset: str
    root: Path
    videos: tuple[VideoEntry, ...]
    class_names: tuple[str, ...]
    fingerprint: str
    num_skipped: int = 0
    num_unreadable: int = 0
    num_duplicates: int = 0
    notes: tuple[str, ...] = ()
    unused: tuple[VideoEntry, ...] = ()

    @property
    def left_out(self) -> str:
        """How many videos are left out and why, as a table says it: "2 unreadable and 1 too short left out", or ''."""
        parts = {"unreadable": self.num_unreadable, "duplicate": self.num_duplicates, "too short": self.num_skipped}
        said = [f"{number} {kind}" for kind, number in parts.items() if number]
        return f"{' and '.join(said)} left out" if said else ""

    def split(self, name: str) -> tuple[VideoEntry, ...]:
        """The videos of 'train', 'heldout' or 'train+heldout'; ValueError for another name."""
        allowed = (*SPLITS, "train+heldout")
        if name not in allowed:
            raise ValueError(f"got split '{name}', allowed: {', '.join(allowed)}")
        return tuple(video for video in self.videos if video.split in name.split("+"))

    def long_enough(
        self, frames: int, interval: int, short_videos: str = "error", frame_choice: str = "exact"
    ) -> Catalogue:
        """A catalogue in which every video holds a clip of `frames` frames, one in `interval`.

        With frame_choice linspace a shorter video still gives a clip as long as it has `frames` frames.

        short_videos: 'error' raises ValueError if there is a shorter video, 'skip' leaves such videos out
        and adds them to num_skipped (ValueError if a split has none left).
        """
        if short_videos not in ("error", "skip"):
            raise ValueError(f"got short_videos '{short_videos}', allowed: error, skip")
        span = frames if frame_choice == "linspace" else (frames - 1) * interval + 1
        short = [video for video in self.videos if video.frames < span]
        if not short:
            return self
        if short_videos == "error":
            raise ValueError(_too_short(self, short, frames, interval, span))
        kept = tuple(video for video in self.videos if video.frames >= span)
        for split in {video.split for video in self.videos}:
            if not any(video.split == split for video in kept):
                raise ValueError(
                    _too_short(self, short, frames, interval, span) + f"; skipping leaves no {split} video"
                )
        unused = (*self.unused, *(replace(video, entries=b"") for video in short))
        return replace(self, videos=kept, num_skipped=self.num_skipped + len(short), unused=unused)


def _too_short(catalogue: Catalogue, short: list[VideoEntry], frames: int, interval: int, span: int) -> str:
    shortest = min(short, key=lambda video: video.frames)
    length = shortest.frames
    works = []
    if frames > 1 and length >= frames:
        works.append(f"interval {(length - 1) // (frames - 1)} with {frames} frames")
    if length >= 1:
        works.append(f"{(length - 1) // interval + 1} frames at interval {interval}")
    return (
        f"{len(short)} of {len(catalogue.videos)} videos are shorter than the {span} frames that {frames} "
        f"frames at interval {interval} span; the shortest is {shortest.path} with {length} frames; the most "
        f"that would work: {' or '.join(works)}; data.short_videos=skip leaves them out"
    )
