"""What a feature network sees of held-out clips, whole, spoilt, and of other data sets: one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.clip import centre_crop_resize, span
from lavita.data.facts import dataset_facts
from lavita.data.layouts import read_layout
from lavita.data.video import read_frames
from lavita.data.windows import load_window, spread_windows
from lavita.score.extractors import Extractor
from lavita.score.sanity import Sight, sanity_text

EMBEDDED, UNTRAINED = "embedded", "untrained-i3d"
STRETCH_SPANS = 4  # of each training video, as a run trains its extractor
LEAST_GROUPS = 4  # of held-out videos, so that a half holds two of them


@dataclass(frozen=True)
class Options:
    """What is measured: held-out windows of frames at an interval and resolution, `hop` frames from one to the next
    (None: without sharing a frame), halved at random or (by_video) so that no group of videos of one source is in both
    halves, or no video where there are fewer than LEAST_GROUPS groups.
    """

    dataset: str
    root: Path
    others: Mapping[str, Path]
    resolution: int
    frames: int
    interval: int
    hop: int | None
    by_video: bool
    extractor: str
    steps: int
    save: Path | None


def measure(options: Options, say: Callable[[str], None]) -> str:
    """The table and the verdict, as text. Raises ValueError where there are too few clips."""
    catalogue = read_layout(options.dataset, options.root).long_enough(options.frames, options.interval, "skip")
    extractor = network(options, catalogue, say)
    sight = Sight(extractor)
    windows = heldout_windows(options, catalogue)
    for number, (video, start) in enumerate(windows, start=1):
        sight.add(load_window(video, start, options.frames, options.interval, options.resolution))
        if number % 10 == 0 or number == len(windows):
            say(f"held-out clips {number}/{len(windows)}")
    foreign = {
        f"clips of {name}": others(options, name, root, extractor, len(windows))
        for name, root in options.others.items()
    }
    how, groups = halved_by(windows) if options.by_video else ("random halves of the windows", None)
    report = sight.report(foreign=foreign, groups=groups)
    videos = len({video.video_id for video, _ in windows})
    apart = "without sharing a frame" if options.hop is None else f"{options.hop} frames from one to the next"
    return (
        f"{options.dataset}: {len(windows)} windows of {videos} held-out videos, {apart}; "
        f"{options.frames} frames at interval {options.interval}, {options.resolution} pixels; {how}, "
        f"{report.n} clips a side; extractor {extractor.name} ({extractor.weights_hash[:13]})\n\n"
        f"{sanity_text(report)}"
    )


def heldout_windows(options: Options, catalogue: Catalogue) -> list[tuple[VideoEntry, int]]:
    """The held-out windows in the order of the videos."""
    length = span(options.frames, options.interval)
    hop = options.hop or length
    return [
        (video, start) for video in catalogue.split("heldout") for start in range(0, video.frames - length + 1, hop)
    ]


def halved_by(windows: list[tuple[VideoEntry, int]]) -> tuple[str, list[str]]:
    """What never stands in both halves, in words, and its name for each window."""
    groups = [video.group for video, _ in windows]
    if len(set(groups)) >= LEAST_GROUPS:
        return "no group of videos of one source in both halves", groups
    return f"no video in both halves (their groups are {len(set(groups))})", [video.video_id for video, _ in windows]


def others(options: Options, name: str, root: Path, extractor: Extractor, count: int) -> np.ndarray:
    """Features of clips of another data set, spread over all of its videos."""
    catalogue = read_layout(name, root).long_enough(options.frames, options.interval, "skip")
    windows = spread_windows(catalogue, "train+heldout", options.frames, options.interval, count, 0)
    clips = (load_window(v, start, options.frames, options.interval, options.resolution) for v, start in windows)
    return np.stack([extractor.features(clip[None]).numpy()[0] for clip in clips])


def network(options: Options, catalogue: Catalogue, say: Callable[[str], None]) -> Extractor:
    """The network of the options: the embedded one trained on the training split, an untrained I3D, or a file's."""
    if options.extractor == UNTRAINED:
        from lavita.score.i3d import I3D
        from lavita.score.i3d_files import I3DExtractor

        torch.manual_seed(0)
        return I3DExtractor(I3D().eval(), UNTRAINED)
    if options.extractor != EMBEDDED:
        from lavita.score.loading import load_extractor

        return load_extractor(options.extractor)
    from lavita.score.embedded import save_embedded
    from lavita.score.embedded_fit import fit_embedded

    videos = catalogue.split("train")
    longest = STRETCH_SPANS * span(options.frames, options.interval)
    lengths = [min(video.frames, longest) for video in videos]
    stretches = [
        centre_crop_resize(read_frames(video.path, range(length)), options.resolution)
        for video, length in zip(videos, lengths, strict=True)
    ]
    classes = len(catalogue.class_names) or None
    labels = [video.class_index for video in videos] if classes else None

    def report(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            say(f"extractor {step}/{steps} loss {loss:.4g}")

    flip = dataset_facts(options.dataset).flip
    made = fit_embedded(
        stretches, options.frames, options.interval, labels, classes, flip=flip, steps=options.steps, report=report
    )
    if options.save is not None:
        save_embedded(made, options.save)
    return made
