"""Described clips of two sides -> scores under a protocol. Numpy only: what recomputes a table from stored features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lavita.config.protocol import Protocol
from lavita.metrics.confidence import interval_columns
from lavita.metrics.distances import frechet_distance, frechet_distance_float32, inception_score, kernel_distance
from lavita.metrics.memorization import memorization
from lavita.metrics.resampling import FrechetOfSubsets, KernelOfSubsets

METRICS = ("fvd", "kvd", "is", "fid")
UNITS = {
    "fid": "squared feature distance",
    "fvd-train": "squared feature distance",
    "fvd-heldout": "squared feature distance",
    "memorisation": "distance of held-out clips",
    "fvd": "squared feature distance",
    "kvd": "squared kernel distance",
    "is": "effective number of classes",
}


def scores_of(
    protocol: Protocol,
    real: Mapping[str, np.ndarray],
    generated: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    splits: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> list[dict[str, Any]]:
    """One entry a metric that the arrays allow: metric, stage, value, unit, lower_is_better, interval if there is one.

    real, generated: features float32 (n, d), probabilities float32 (n, K), frame_features float32 (n, F, d) and names
    (n,), as `described` stores them.
    names: full metric names by short one. splits: features of real clips of train and heldout. Raises
    ValueError for features that are not finite, naming the clip.
    """
    entries = []
    if "features" in real and "features" in generated:
        x, y = (finite(side["features"], side["names"]) for side in (real, generated))
        for metric, value, parts in (
            ("fvd", distance(protocol, x, y), FrechetOfSubsets(x, y, protocol.ddof)),
            ("kvd", kernel_distance(x, y), KernelOfSubsets(x, y)),
        ):
            entries.append(entry(metric, names, value) | interval_columns(parts, value))
        entries += split_entries(protocol, names, y, splits or {})
    if "frame_features" in real and "frame_features" in generated:
        frames = [
            finite(side["frame_features"].reshape(len(side["names"]), -1), side["names"]) for side in (real, generated)
        ]
        width = real["frame_features"].shape[-1]
        value = frechet_distance(*(rows.reshape(-1, width) for rows in frames), protocol.ddof)
        entries.append(entry("fid", names, value))
    if "probabilities" in generated:
        entries.append(class_entry(protocol, names, generated, "generated"))
        if "probabilities" in real:
            entries.append(class_entry(protocol, names, real, "real"))
    return entries


def split_entries(
    protocol: Protocol,
    names: Mapping[str, str],
    generated: np.ndarray,
    splits: Mapping[str, Mapping[str, np.ndarray]],
) -> list[dict[str, Any]]:
    """Distances to real clips of each split, and how near generated clips come to training clips."""
    rows = {split: finite(side["features"], side["names"]) for split, side in splits.items()}
    entries = [
        entry(f"fvd-{split}", names, distance(protocol, x, generated)) | {"n_real": len(x)} for split, x in rows.items()
    ]
    if {"train", "heldout"} <= set(rows):
        found = memorization(generated, rows["train"], rows["heldout"], list(splits["train"]["names"]))
        closest = [
            {"clip": clip, "training_clip": name, "distance": far, "ratio": ratio}
            for clip, name, far, ratio in found.closest(5)
        ]
        one = entry("memorisation", names, found.ratio) | {"n_real": len(rows["train"]), "lower_is_better": None}
        entries.append(one | {"copies": len(found.copies), "closest": closest})
    return entries


def distance(protocol: Protocol, real: np.ndarray, generated: np.ndarray) -> float:
    """The protocol's Frechet distance of features (n, d) and (m, d)."""
    compute = frechet_distance_float32 if protocol.precision == "float32-svd" else frechet_distance
    return compute(real, generated, protocol.ddof)


def entry(metric: str, names: Mapping[str, str], value: float, stage: str = "generated") -> dict[str, Any]:
    return {
        "metric": names[metric],
        "stage": stage,
        "value": value,
        "unit": UNITS[metric],
        "lower_is_better": metric != "is",
    }


def class_entry(
    protocol: Protocol, names: Mapping[str, str], side: Mapping[str, np.ndarray], stage: str
) -> dict[str, Any]:
    """The inception score of one side, with its spread over the splits."""
    probabilities = finite(side["probabilities"], side["names"])
    splits = min(protocol.is_splits, len(probabilities))
    mean, deviation = inception_score(probabilities, splits, protocol.is_shuffle_seed)
    found = entry("is", names, mean, stage)
    if splits > 1:
        found |= {"ci_low": mean - deviation, "ci_high": mean + deviation}
        found |= {"ci_kind": f"mean +- std over {splits} splits"}
    return found


def finite(rows: np.ndarray, names: np.ndarray) -> np.ndarray:
    """rows (n, d). Raises ValueError naming the first clip with a value that is not finite."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(f"clip {names[bad[0]]}: its features are not finite ({len(bad)} of {len(rows)} clips)")
    return rows
