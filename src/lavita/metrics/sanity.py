"""What an extractor is sensitive to at this size: real clips against real clips, intact and corrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lavita.data.catalogue import Catalogue, VideoEntry, dataset_facts
from lavita.data.clips import load_window, span, spread_windows
from lavita.data.layouts import read_layout
from lavita.metrics.corruptions import CORRUPTIONS
from lavita.metrics.distances import frechet_distance, inception_score
from lavita.metrics.features.base import Extractor
from lavita.results.rows import shown

REAL_VS_REAL = "halves"
# Swapped neighbours and a frozen second half are kept out of the in-domain extractor's training.
SANITY_CORRUPTIONS = ("shuffled", "static", "blurred", "swapped", "half_frozen")
WANTED_RATIO = 3.0


@dataclass(frozen=True)
class SanityReport:
    """rows: mean Frechet distance over the splits, for "halves" (the real-vs-real baseline), each change and each other
    set of clips; low, high: the least and greatest over the splits; n: clips on each side; informative, as records call
    it: whether the distance is sensitive to every change, which then lies at least WANTED_RATIO times above the
    baseline, the least of its splits above the greatest of the baseline's; verdict: what it is sensitive to, in a
    sentence; inception: mean and standard deviation over the splits of the inception score of all real clips, None
    without classes.
    """

    rows: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    n: int
    informative: bool
    verdict: str
    inception: tuple[float, float] | None = None

    def ratios(self) -> dict[str, float]:
        """Each change's distance in units of the baseline."""
        return {name: value / self.rows[REAL_VS_REAL] for name, value in self.rows.items() if name != REAL_VS_REAL}


def sanity_rows(
    extractor: Extractor,
    clips: np.ndarray,
    seed: int = 0,
    changes: Sequence[str] = SANITY_CORRUPTIONS,
    splits: int = 20,
    ddof: int = 0,
    others: Mapping[str, np.ndarray] | None = None,
    classes: Extractor | None = None,
    is_splits: int = 10,
    is_shuffle_seed: int | None = 42,
) -> SanityReport:
    """Return distances of half A of real clips to half B (real vs real), to each change of half B, and to as many clips
    of each other set, over random splits.

    clips: uint8 (N, F, H, W, 3), 0..255, N >= 4; an odd last one of each split is left out, so every distance
    is between the same number of clips. others: name -> uint8 (M, F, H, W, 3), M >= N // 2, e.g. of another data set.
    classes: the network of the inception score of the real clips, if they have classes that it knows. Raises
    ValueError for fewer clips, an unknown change, or a set named like another row.
    """
    sensitivity = Sensitivity(extractor, changes, seed)
    for clip in clips:
        sensitivity.add(clip)
    foreign = {name: extractor.features(other).numpy() for name, other in (others or {}).items()}
    score = None
    if classes is not None and classes.num_classes is not None:
        probabilities = classes.probabilities(clips).numpy()
        score = inception_score(probabilities, min(is_splits, len(clips)), is_shuffle_seed)
    return sensitivity.report(splits, ddof, foreign, score)


class Sensitivity:
    """Features of real clips, intact and corrupted, gathered clip by clip: no set of clips is held in memory."""

    def __init__(self, extractor: Extractor, changes: Sequence[str] = SANITY_CORRUPTIONS, seed: int = 0) -> None:
        """Raises ValueError for an unknown change."""
        unknown = [name for name in changes if name not in CORRUPTIONS]
        if unknown:
            raise ValueError(f"change: got {unknown[0]!r}, allowed {', '.join(CORRUPTIONS)}")
        self.extractor, self.changes, self.seed = extractor, tuple(changes), seed
        self.real: list[np.ndarray] = []
        self.corrupted: dict[str, list[np.ndarray]] = {name: [] for name in changes}

    def changed(self, clip: np.ndarray, number: int) -> dict[str, np.ndarray]:
        """A clip, uint8 (F, H, W, 3), 0..255, in every corruption, by name; number: its place among the clips."""
        return {name: CORRUPTIONS[name](clip, np.random.default_rng((self.seed, number))) for name in self.changes}

    def take(self, real: np.ndarray, corrupted: Mapping[str, np.ndarray]) -> None:
        """Take note of clips whose features (n, d) are known, intact and in every corruption."""
        self.real.extend(real)
        for name in self.changes:
            self.corrupted[name].extend(corrupted[name])

    def add(self, clip: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
        """Take note of the next clip, uint8 (F, H, W, 3), 0..255; returns its features, float32 (d,).

        features: the same, where they are known already.
        """
        for name, changed in self.changed(clip, len(self.real)).items():
            self.corrupted[name].append(self.extractor.features(changed[None]).numpy()[0])
        self.real.append(self.extractor.features(clip[None]).numpy()[0] if features is None else features)
        return self.real[-1]

    def report(
        self,
        splits: int = 20,
        ddof: int = 0,
        foreign: Mapping[str, np.ndarray] | None = None,
        inception: tuple[float, float] | None = None,
        groups: Sequence[str] | None = None,
    ) -> SanityReport:
        """The report as `sanity_rows` gives it; foreign: features (M, d) of other sets of clips, by name.

        groups: one per clip, such as its video; then no group has clips in both halves, and each half is as large as
        the smallest half of all splits.
        """
        rng = np.random.default_rng(self.seed)
        halves = list(halvings(len(self.real), splits, rng, groups))
        foreign, half = dict(foreign or {}), len(halves[0][0])
        if half < 2:
            raise ValueError(f"sanity rows: got {len(self.real)} real clips, wanted at least 4")
        for name, other in foreign.items():
            if name in (REAL_VS_REAL, *self.changes):
                raise ValueError(f"sanity rows: {name!r} names a row already; give the other clips another name")
            if len(other) < half:
                missing = f"{half - len(other)} are missing"
                raise ValueError(f"sanity rows: {name}: got {len(other)}, wanted {half}, as many as a half; {missing}")
        real, corrupted = np.stack(self.real), {name: np.stack(rows) for name, rows in self.corrupted.items()}
        found: dict[str, list[float]] = {name: [] for name in (REAL_VS_REAL, *corrupted, *foreign)}
        for a, b in halves:
            found[REAL_VS_REAL].append(frechet_distance(real[a], real[b], ddof))
            for name, rows in corrupted.items():
                found[name].append(frechet_distance(real[a], rows[b], ddof))
            for name, rows in foreign.items():
                found[name].append(frechet_distance(real[a], rows[rng.permutation(len(rows))[:half]], ddof))
        rows = {name: float(np.mean(values)) for name, values in found.items()}
        low, high = ({name: float(end(values)) for name, values in found.items()} for end in (min, max))
        return SanityReport(rows, low, high, half, *verdict(rows, half, low, high), inception)


def halvings(
    count: int, splits: int, rng: np.random.Generator, groups: Sequence[str] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of index arrays of equal length, random halves of `count` clips; with groups no group is in both."""
    if groups is None:
        for order in [rng.permutation(count) for _ in range(splits)]:
            yield order[: count // 2], order[count // 2 : 2 * (count // 2)]
        return
    names, of = np.unique(np.asarray(groups)), np.asarray(groups)
    pairs = []
    for _ in range(splits):
        order = rng.permutation(names)
        first = np.isin(of, order[: len(names) // 2])
        second = np.isin(of, order[len(names) // 2 : 2 * (len(names) // 2)])
        pairs.append([rng.permutation(np.flatnonzero(side)) for side in (first, second)])
    least = min((len(side) for pair in pairs for side in pair), default=0)
    for a, b in pairs:
        yield a[:least], b[:least]


def sanity_text(report: SanityReport) -> str:
    """The sanity rows as Markdown: distance of half A of the real clips to half B, whole or changed."""
    lines = ["| half A against | Frechet distance, mean of 20 splits | least to greatest | times the baseline |"]
    lines.append("| --- | --- | --- | --- |")
    for name, value in report.rows.items():
        title = "half B (real vs real)" if name == REAL_VS_REAL else f"half B, {name.replace('_', ' ')}"
        times = shown(value / report.rows[REAL_VS_REAL], 3) if report.rows[REAL_VS_REAL] > 0 else ""
        ends = f"{shown(report.low[name])} to {shown(report.high[name])}"
        lines.append(f"| {title} | {shown(value)} | {ends} | {times} |")
    lines += ["", f"{report.verdict[0].upper()}{report.verdict[1:]}."]
    if report.inception is not None:
        mean, deviation = report.inception
        lines += ["", f"Inception score of the real clips: {shown(mean)} (deviation {shown(deviation, 2)})."]
    return "\n".join(lines)


def verdict(
    rows: Mapping[str, float],
    n: int,
    low: Mapping[str, float] | None = None,
    high: Mapping[str, float] | None = None,
) -> tuple[bool, str]:
    """Whether every row lies WANTED_RATIO above the baseline, clear of it where low and high are given, and a sentence
    that says what the distance is sensitive to and to what not, and by how much, the largest first.
    """
    baseline = rows[REAL_VS_REAL]
    names = sorted((name for name in rows if name != REAL_VS_REAL), key=lambda name: -rows[name])
    near = [name for name in names if not (rows[name] > 0 and rows[name] >= WANTED_RATIO * baseline)]
    touching = (
        [] if low is None else [name for name in names if name not in near and not low[name] > high[REAL_VS_REAL]]
    )
    clear = [name for name in names if name not in (*near, *touching)]

    def listed(those: Sequence[str]) -> str:
        times = {name: f" {shown(rows[name] / baseline, 3)}" if baseline else "" for name in those}
        return ", ".join(f"{name.replace('_', ' ')}{times[name]}" for name in those)

    said = [f"sensitive to {listed(clear) or 'nothing that was tried'}"]
    if near:
        said.append(f"not sensitive at this size to {listed(near)}, wanted at least {WANTED_RATIO:g}")
    if touching:
        said.append(f"not clearly to {listed(touching)}: some split lies no further than some two real halves")
    unit = f"times the real-vs-real baseline, two real halves of {n} clips"
    return not near and not touching, f"{'; '.join(said)} ({unit})"


IN_DOMAIN, UNTRAINED = "embedded", "untrained-i3d"
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


def measure_sensitivity(options: Options, say: Callable[[str], None]) -> str:
    """The table and the verdict, as text. Raises ValueError where there are too few clips."""
    catalogue = read_layout(options.dataset, options.root).long_enough(options.frames, options.interval, "skip")
    extractor = network(options, catalogue, say)
    sensitivity = Sensitivity(extractor)
    windows = heldout_windows(options, catalogue)
    for number, (video, start) in enumerate(windows, start=1):
        sensitivity.add(load_window(video, start, options.frames, options.interval, options.resolution))
        if number % 10 == 0 or number == len(windows):
            say(f"held-out clips {number}/{len(windows)}")
    foreign = {
        f"clips of {name}": others(options, name, root, extractor, len(windows))
        for name, root in options.others.items()
    }
    how, groups = halved_by(windows) if options.by_video else ("random halves of the windows", None)
    report = sensitivity.report(foreign=foreign, groups=groups)
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
    """The network of the options: the in-domain one trained on the training split, an untrained I3D, or a file's."""
    if options.extractor == UNTRAINED:
        from lavita.metrics.features.i3d import I3D, I3DExtractor

        torch.manual_seed(0)
        return I3DExtractor(I3D().eval(), UNTRAINED)
    if options.extractor != IN_DOMAIN:
        from lavita.metrics.features.load import load_extractor

        return load_extractor(options.extractor)
    from lavita.metrics.features.in_domain import save_in_domain
    from lavita.metrics.features.in_domain_training import fit_in_domain
    from lavita.metrics.features.stretches import read_stretches

    classes = len(catalogue.class_names) or None
    stretches = read_stretches(
        catalogue.split("train"), options.frames, options.interval, options.resolution, lambda *_: None
    )
    say(f"extractor: {stretches.text()}")
    labels = stretches.labels() if classes else None

    def report(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            say(f"extractor {step}/{steps} loss {loss:.4g}")

    flip = dataset_facts(options.dataset).flip
    made = fit_in_domain(
        stretches.frames,
        options.frames,
        options.interval,
        labels,
        classes,
        flip=flip,
        steps=options.steps,
        report=report,
    )
    if options.save is not None:
        save_in_domain(made, options.save)
    return made
