"""Scores a cell's clips against the run's real clips: features once, then every metric of the protocol."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavita.bench.suite import CellConfig
from lavita.kept import Kept
from lavita.runner.events import progress
from lavita.runner.in_parts import in_parts, joined
from lavita.score.described import save_arrays
from lavita.score.embedded import load_embedded
from lavita.score.extractors import Extractor
from lavita.score.interval_columns import interval_columns
from lavita.score.intervals import LEAST_CLIPS
from lavita.score.loading import KNOWN
from lavita.score.metrics import (
    ClipMetric,
    FrechetVideoDistance,
    KernelVideoDistance,
    MemorisationCheck,
    VideoInceptionScore,
)
from lavita.score.subsets import FrechetOfSubsets, KernelOfSubsets
from lavita.score.torchscript import TorchScriptC3D, TorchScriptI3D
from lavita.score.weights import find_weights

# One process scores all clips of a cell; were others asked for theirs, they would be waited for in vain.
ALONE = {"sync_on_compute": False}
CLIPS_AT_ONCE = 16  # described between two looks at whether the process is asked to end


def load_extractors(cell: CellConfig, embedded: str | None, device: str) -> dict[str, Extractor]:
    """The protocol's feature networks by use: "distance" for FVD and KVD, "classes" for IS. Raises ValueError."""
    loaders = {
        "embedded": lambda: load_embedded(Path(embedded), device),
        "i3d": lambda: TorchScriptI3D(given(cell.weights.i3d, "i3d"), device),
        "c3d": lambda: TorchScriptC3D(given(cell.weights.c3d, "c3d"), device),
    }
    found: dict[str, Extractor] = {}
    for name in (cell.protocol.extractor, cell.protocol.is_extractor):
        if name not in loaders:
            raise ValueError(f"protocol.extractor: got {name!r}, allowed {', '.join(loaders)}")
        if name not in found:
            found[name] = loaders[name]()
    p = cell.protocol
    check_recorded("extractor", p.extractor_hash, found[p.extractor])
    check_recorded("is_extractor", p.is_extractor_hash, found[p.is_extractor])
    return {"distance": found[p.extractor], "classes": found[p.is_extractor]}


def check_recorded(key: str, recorded: str | None, network: Extractor) -> None:
    """Raise ValueError where the protocol records another file than the one at hand."""
    if recorded not in (None, network.weights_hash):
        raise ValueError(
            f"protocol.{key}_hash is {recorded[:12]}, the file of {network.name} at hand has "
            f"{network.weights_hash[:12]}; give the recorded file, or protocol.{key}_hash={network.weights_hash}, "
            "which the protocol's name will say"
        )


def given(path: str | None, name: str) -> str:
    """The path of a feature network: as given, or in the cache of weights, where evaluate.py fetches it to.

    Raises ValueError saying where it was looked for and how to give one.
    """
    if path is not None:
        return path
    try:
        return str(find_weights(KNOWN[name], offline=True))
    except ValueError as error:
        raise ValueError(
            f"protocol.extractor={name}: {error}; or give weights.{name}=FILE, or score with the suite's own small "
            "network, protocol.extractor=embedded protocol.is_extractor=embedded (its scores have another name)"
        ) from None


class Scorer:
    """The feature networks and the real clips' features, loaded once a cell."""

    def __init__(self, shared: dict[str, Any], cell: CellConfig, device: str) -> None:
        self.protocol = cell.protocol
        self.extractors = load_extractors(cell, shared["extractor"], device)
        self.real = torch.from_numpy(np.load(shared["real"])["features"])
        self.splits = {split: np.load(path) for split, path in shared["splits"].items()} if "splits" in shared else {}
        # An inception score needs classes that mean something for this data set.
        self.has_classes = self.extractors["classes"].num_classes is not None and shared["num_classes"] is not None

    def score(
        self, clips: np.ndarray, keep: Path, by_split: bool = False, kept: Kept | None = None, name: str = "score"
    ) -> list[dict[str, Any]]:
        """One entry a metric for clips uint8 (N, F, H, W, 3): metric, value, unit, lower_is_better, interval.

        keep: the .npz that takes what the scores are made from (features, probabilities, names), so that anybody can
        make them again. by_split: also the distances to train and to held-out clips, and how near clips come to
        training clips. kept: features are kept there under the name part by part, and taken from there.
        """
        p, distance = self.protocol, self.extractors["distance"]
        described = self.described(clips, kept, name)
        features = torch.from_numpy(described["features"])
        arrays = described | {"names": np.array([f"{index:06d}" for index in range(len(clips))])}
        fvd = FrechetVideoDistance(distance, n=p.n_generated, n_real=p.n_real, ddof=p.ddof, **ALONE)
        entries = []
        kvd = KernelVideoDistance(distance, n=p.n_generated, n_real=p.n_real, **ALONE)
        x, y = self.real.double().numpy(), features.double().numpy()
        for metric, parts in ((fvd, FrechetOfSubsets(x, y, p.ddof)), (kvd, KernelOfSubsets(x, y))):
            metric.add_rows(self.real, real=True)
            metric.add_rows(features, real=False)
            value = float(metric.compute())
            entries.append(self.entry(metric, distance, value, p.n_generated) | interval_columns(parts, value))
        if by_split:
            entries += self.split_entries(features)
        if self.has_classes:
            classes = self.extractors["classes"]
            how = {"splits": p.is_splits, "shuffle_seed": p.is_shuffle_seed}
            metric = VideoInceptionScore(classes, p.n_generated, **how, **ALONE)
            metric.add_rows(torch.from_numpy(described["probabilities"]), real=False)
            mean, deviation = metric.mean_and_deviation()
            entry = self.entry(metric, classes, mean, p.n_generated)
            if p.is_splits > 1:
                entry |= {"ci_low": mean - deviation, "ci_high": mean + deviation}
                entry |= {"ci_kind": f"mean +- std over {p.is_splits} splits"}
            entries.append(entry)
        save_arrays(keep, arrays)
        return entries

    def described(self, clips: np.ndarray, kept: Kept | None, name: str) -> dict[str, np.ndarray]:
        """Features and, where they mean something, class probabilities of clips."""

        def make(part: slice) -> dict[str, np.ndarray]:
            rows = {"features": self.extractors["distance"].features(clips[part]).numpy()}
            if self.has_classes:
                rows["probabilities"] = self.extractors["classes"].probabilities(clips[part]).numpy()
            return rows

        parts = in_parts(name, len(clips), CLIPS_AT_ONCE, make, partial(progress, name), kept)
        return {key: joined(parts, key) for key in parts[0]}

    def split_entries(self, features: torch.Tensor) -> list[dict[str, Any]]:
        """Distances to the real clips of each split, and the memorisation check, where a split has clips enough."""
        p, distance, entries = self.protocol, self.extractors["distance"], []
        counts = {split: len(rows["features"]) for split, rows in self.splits.items()}
        for split, count in counts.items():
            if count >= LEAST_CLIPS:
                how = {"n": p.n_generated, "n_real": count, "ddof": p.ddof, "against": split}
                metric = FrechetVideoDistance(distance, **how, **ALONE)
                metric.add_rows(torch.from_numpy(self.splits[split]["features"]), real=True)
                metric.add_rows(features, real=False)
                entries.append(self.entry(metric, distance, float(metric.compute()), p.n_generated) | {"n_real": count})
        if len(entries) < len(self.splits) or not entries:
            return entries
        names = {"train": list(self.splits["train"]["names"])}
        check = MemorisationCheck(distance, p.n_generated, counts["train"], counts["heldout"], names=names, **ALONE)
        for side, rows in (("train", None), ("heldout", None), ("generated", features)):
            check.add_rows(torch.from_numpy(self.splits[side]["features"]) if rows is None else rows, side)
        found = check.found()
        closest = [
            {"clip": clip, "training_clip": name, "distance": far, "ratio": ratio}
            for clip, name, far, ratio in found.closest(5)
        ]
        entry = self.entry(check, distance, found.ratio, p.n_generated)
        entry |= {"n_real": counts["train"], "copies": len(found.copies), "closest": closest}
        return [*entries, entry]

    def reconstruction_distance(self, batches: Iterable[np.ndarray], keep: Path) -> dict[str, Any]:
        """rfvd: the real clips against themselves after a first stage, which come in batches uint8 (b, F, H, W, 3).

        keep: the .npz that takes the features of the latter.
        """
        p, distance = self.protocol, self.extractors["distance"]
        metric = FrechetVideoDistance(distance, n=p.n_real, n_real=p.n_real, ddof=p.ddof, **ALONE)
        metric.add_rows(self.real, real=True)
        features = torch.cat([distance.features(clips) for clips in batches])
        metric.add_rows(features, real=False)
        save_arrays(keep, {"features": features.numpy()})
        entry = self.entry(metric, distance, float(metric.compute()), p.n_real)
        return entry | {"metric": "r" + entry["metric"]}

    def entry(self, metric: ClipMetric, extractor: Extractor, value: float, n: int) -> dict[str, Any]:
        """A score of n clips under its full name, which says the feature network unless it is the standard one."""
        return {
            "metric": metric.key(extractor.name, n, self.protocol.frames, extractor.weights_hash, metric.against),
            "value": value,
            "unit": metric.unit,
            "lower_is_better": None if metric.higher_is_better is None else not metric.higher_is_better,
            "extractor": extractor.name,
            "extractor_hash": extractor.weights_hash,
        }
