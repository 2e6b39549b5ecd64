"""The videos of a data set as one immutable table: which there are, in which split, which are long enough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

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
