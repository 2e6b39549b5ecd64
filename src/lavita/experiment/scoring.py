"""Scores a run's clips against the real clips: features once, then every metric that they allow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lavita.config.compose import Experiment
from lavita.executors.heartbeat import progress
from lavita.metrics.confidence import LEAST_CLIPS
from lavita.metrics.evaluate import scores_of
from lavita.metrics.extract import load_arrays, save_arrays
from lavita.metrics.features.load import load_extractors
from lavita.metrics.table import NetworkId
from lavita.results.resume_store import ResumeStore
from lavita.results.scores import Score
from lavita.results.shared import SharedArtifacts
from lavita.sampling.generate import in_parts, joined

CLIPS_AT_ONCE = 16  # whose features are extracted between two looks at whether the process is asked to end


class Scorer:
    """The feature networks and the real clips' features, loaded once per run of a method."""

    def __init__(self, shared: SharedArtifacts, experiment: Experiment, device: str) -> None:
        self.protocol = experiment.protocol
        self.extractors = load_extractors(experiment.protocol, experiment.weights, shared.extractor, device)
        self.real = load_arrays(shared.real)
        self.splits = {split: load_arrays(path) for split, path in shared.splits.items()}
        # An inception score needs classes that mean something for this data set.
        self.has_classes = self.extractors["classes"].num_classes is not None and shared.num_classes is not None

    def score(
        self,
        clips: Sequence[np.ndarray],
        keep: Path,
        by_split: bool = False,
        kept: ResumeStore | None = None,
        name: str = "score",
        stage: str = "generated",
    ) -> list[Score]:
        """Every score that the protocol has of clips uint8 (N, F, H, W, 3), a slice of which is an array; a few are in
        memory at a time.

        keep: the .npz that takes what the scores are made from (features, probabilities, names), so that anybody can
        make them again. by_split: also the distances to train and to held-out clips, and how near clips come to
        training clips. kept: features are kept there under the name part by part, and taken from there. stage: that of
        the scores.
        """
        names = {"names": np.array([f"{index:06d}" for index in range(len(clips))])}
        arrays = self.features(clips, kept, name) | names
        # A distance to a handful of clips says nothing of a split.
        splits = {split: rows for split, rows in self.splits.items() if len(rows["names"]) >= LEAST_CLIPS}
        sides = {"real": self.real, "generated": arrays, **(splits if by_split else {})}
        scores = scores_of(self.protocol, sides, self.networks(), stage)
        save_arrays(keep, arrays)
        return scores

    def features(self, clips: Sequence[np.ndarray], kept: ResumeStore | None, name: str) -> dict[str, np.ndarray]:
        """Features and, where they mean something, class probabilities of clips."""

        def make(part: slice) -> dict[str, np.ndarray]:
            rows = {"features": self.extractors["distance"].features(clips[part]).numpy()}
            if self.has_classes:
                rows["probabilities"] = self.extractors["classes"].probabilities(clips[part]).numpy()
            return rows

        parts = in_parts(name, len(clips), CLIPS_AT_ONCE, make, partial(progress, name), kept)
        return {key: joined(parts, key) for key in list(parts[0])}

    def networks(self) -> dict[str, NetworkId]:
        """The feature networks, by the array that they give."""
        uses = {"features": "distance", "probabilities": "classes"}
        found = {array: self.extractors[use] for array, use in uses.items()}
        return {array: NetworkId(network.name, network.weights_hash) for array, network in found.items()}
