"""Features that all runs of a group are compared with: of the protocol's real clips and of windows of both splits, made
once in the cache, part by part, so that a process which is ended loses little.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lavita.config.compose import Experiment
from lavita.config.protocol import Protocol
from lavita.data.ahead import InOrder
from lavita.data.catalogue import SPLITS, Catalogue, VideoEntry
from lavita.data.clip_folder import sprite_files, write_grid, write_sprite
from lavita.data.clips import load_window, spread_windows
from lavita.executors.heartbeat import progress
from lavita.experiment.reconstruction import FirstStage, reconstruction_scores
from lavita.experiment.scoring import Scorer
from lavita.experiment.shared_codec import HELDOUT_CLIPS, fitted, key_of
from lavita.experiment.stage_data import StageData
from lavita.methods.build import load_suite_codec
from lavita.metrics.distances import inception_score
from lavita.metrics.extract import save_arrays
from lavita.metrics.features.base import Extractor
from lavita.metrics.sanity import Sensitivity
from lavita.results.attempts import PROGRESS
from lavita.results.identity import shared_code_hash
from lavita.results.provenance import versions
from lavita.results.resume_store import ResumeStore
from lavita.results.scores import Score
from lavita.results.shared import Sensitivity as SensitivityRecord
from lavita.results.shared import SharedArtifacts
from lavita.results.typed_json import from_json, read_values, to_json, write_values
from lavita.sampling.generate import GRID_CLIPS, in_parts, joined
from lavita.training import distributed
from lavita.training.stage import TrainedStage

PART_CLIPS = 8  # whose features are kept together: what a process that is ended loses
MEMORY_TIMES = 4  # windows of a split whose features are taken, at most so many times those that are scored
SENSITIVITY, SCORES = "sensitivity.json", "scores.json"
Windows = Sequence[tuple[VideoEntry, int]]
Arrays = dict[str, np.ndarray]


def names_of(windows: Windows) -> list[str]:
    """What each window is called in a file of features."""
    return [f"{video.video_id}@{start}" for video, start in windows]


@dataclass(frozen=True)
class FeatureCache:
    """Where features are kept. facts: what decides them beside the clips: data, networks, code, device."""

    folder: Path
    facts: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, catalogue: Catalogue, protocol: Protocol, device: torch.device) -> FeatureCache:
        """protocol: with the hashes of its networks; device: what they compute on."""
        return cls(folder, (catalogue.fingerprint, protocol.hash(), device.type, shared_code_hash(), versions()))

    def made(self, name: str, windows: Windows, fit: Callable[[Path, ResumeStore], None], *more: str) -> Path:
        """The folder that fit fills, made where it is not there. fit gets what an earlier call kept of its work; more:
        what else decides the content."""
        text = "\n".join(names_of(windows)).encode("utf-8", "surrogateescape")
        key = key_of(*self.facts, hashlib.sha256(text).hexdigest(), *more)

        def resumed(part: Path) -> None:
            fit(part, ResumeStore(part / PROGRESS))
            shutil.rmtree(part / PROGRESS)

        return fitted(self.folder, f"{name}-{key}", resumed)


def copied(folder: Path, out: Path, *names: str) -> None:
    """Copy files of the cache to where the artifacts lie."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(folder / name, out / name)


def features_of(
    title: str,
    windows: Windows,
    load: Callable[[int], Arrays],
    describe: Callable[[Arrays], Arrays],
    store: ResumeStore,
) -> Arrays:
    """describe(load(k)) of every window, stacked by key. load runs in threads, ahead; parts are kept in store."""

    def make(part: slice) -> Arrays:
        rows: dict[str, list[np.ndarray]] = {}
        for number, loaded in enumerate(source[part], start=part.start + 1):
            for key, row in describe(loaded).items():
                rows.setdefault(key, []).append(row)
            if number < part.stop:  # the whole part is told of when it is kept
                progress(title, number, len(windows))
        return {key: np.stack(values) for key, values in rows.items()}

    with closing(InOrder(load, len(windows))) as source:
        parts = in_parts(title, len(windows), PART_CLIPS, make, partial(progress, title), store)
    return {key: joined(parts, key) for key in (list(parts[0]) if parts else ())}


def window_loader(protocol: Protocol, windows: Windows) -> Callable[[int], np.ndarray]:
    """The pixels of the k-th window, uint8 (F, H, W, 3), as the protocol has them."""
    p = protocol
    return lambda number: load_window(*windows[number], p.frames, p.real_interval, p.resolution)


@dataclass(frozen=True)
class RealClips:
    """features: the .npz of their features; videos: how many they come from; sensitivity: of the metric."""

    features: Path
    videos: int
    sensitivity: SensitivityRecord


def real_clips(
    protocol: Protocol,
    networks: Mapping[str, Extractor],
    windows: Windows,
    num_classes: int | None,
    cache: FeatureCache,
    out: Path,
) -> RealClips:
    """Features of the protocol's real clips, a grid of the first of them, and the metric's sensitivity, in out."""
    classes = networks["classes"] if num_classes and networks["classes"].num_classes else None

    def fit(folder: Path, store: ResumeStore) -> None:
        fit_real_clips(protocol, networks["distance"], classes, windows, folder, store)

    folder = cache.made("real", windows, fit, str(classes is not None))
    copied(folder, out, "real.npz", "real.gif", *(path.name for path in sprite_files(folder, "real")))
    values = read_values(folder / SENSITIVITY, "a sensitivity")
    sensitivity = from_json(SensitivityRecord, values, str(folder / SENSITIVITY))
    return RealClips(out / "real.npz", len({video.video_id for video, _ in windows}), sensitivity)


def fit_real_clips(
    protocol: Protocol,
    distance: Extractor,
    classes: Extractor | None,
    windows: Windows,
    folder: Path,
    store: ResumeStore,
) -> None:
    """Write real.npz, the pictures and the sensitivity into a folder."""
    p, pixels, sensitivity = protocol, window_loader(protocol, windows), Sensitivity(distance)

    def load(number: int) -> Arrays:
        clip = pixels(number)
        return {"features": clip, **sensitivity.changed(clip, number)}

    def describe(clips: Arrays) -> Arrays:
        rows = {key: distance.features(clip[None]).numpy()[0] for key, clip in clips.items()}
        if classes is not None:
            rows["probabilities"] = classes.probabilities(clips["features"][None]).numpy()[0]
        return rows

    arrays = features_of("real clips", windows, load, describe, store)
    sensitivity.take(arrays["features"], arrays)
    saved = {"features": arrays["features"], "names": np.array(names_of(windows))}
    saved |= {"probabilities": arrays["probabilities"]} if classes is not None else {}
    save_arrays(folder / "real.npz", saved)
    first = np.stack([pixels(number) for number in range(min(GRID_CLIPS, len(windows)))])
    write_grid(folder / "real.gif", first, columns=4)
    write_sprite(folder, "real", first)
    score = None if classes is None else inception_score(arrays["probabilities"], p.is_splits, p.is_shuffle_seed)
    report = SensitivityRecord(**asdict(sensitivity.report(ddof=p.ddof, inception=score)))
    write_values(folder / SENSITIVITY, to_json(report), sort=False)  # rows have an order


def split_features(
    protocol: Protocol, extractor: Extractor, catalogue: Catalogue, cache: FeatureCache, out: Path
) -> dict[str, Path]:
    """Features of windows of each split, spread evenly over its videos: what distances to train and to held-out clips
    are made from, and what a generated clip is compared with to see whether it was copied. One .npz a split in out."""
    p = protocol
    for split in SPLITS:
        windows = spread_windows(catalogue, split, p.frames, p.real_interval, MEMORY_TIMES * p.n_real, p.clip_seed)
        fit = partial(fit_split, p, extractor, split, windows)
        copied(cache.made(f"split-{split}", windows, fit), out, f"{split}.npz")
    return {split: out / f"{split}.npz" for split in SPLITS}


def fit_split(
    protocol: Protocol, extractor: Extractor, split: str, windows: Windows, folder: Path, store: ResumeStore
) -> None:
    """Write <split>.npz into a folder."""
    pixels = window_loader(protocol, windows)

    def describe(clips: Arrays) -> Arrays:
        return {"features": extractor.features(clips["features"][None]).numpy()[0]}

    arrays = features_of(f"{split} clips", windows, lambda k: {"features": pixels(k)}, describe, store)
    features = arrays.get("features", np.zeros((0, extractor.num_features), np.float32))
    save_arrays(folder / f"{split}.npz", {"features": features, "names": np.array(names_of(windows), dtype=str)})


def codec_scores(
    experiment: Experiment,
    catalogue: Catalogue,
    windows: Windows,
    shared: SharedArtifacts,
    cache: FeatureCache,
    out: Path,
) -> tuple[Score, ...]:
    """What the autoencoder loses, which is the same for every method on its latents; nothing is lost in pixels. Its
    pictures and features are put into out."""
    e = experiment
    if e.codec.kind == "pixels":
        return ()

    def fit(folder: Path, store: ResumeStore) -> None:
        device = distributed.own_device()
        codec = load_suite_codec(e.codec, shared.codec).to(device).eval()
        source = StageData(e.data, e.compute, catalogue, 0, e.method)
        heldout = source.clips(TrainedStage(e.train, 0), 0, 0).heldout_batch(HELDOUT_CLIPS)
        scorer, first = Scorer(shared, e, str(device)), FirstStage(codec, device, "codec")
        scores = reconstruction_scores(first, heldout["video"], windows, scorer, folder / "codec.gif", store)
        write_values(folder / SCORES, {"scores": [score.to_json() for score in scores]})

    folder = cache.made("reconstruction", windows, fit, shared.codec_hash, str(e.data.frames), str(e.data.interval))
    copied(folder, out, "codec.gif", "codec.npz", *(path.name for path in sprite_files(folder, "codec")))
    return tuple(Score.from_json(score) for score in read_values(folder / SCORES, "scores")["scores"])
