"""Does a generator copy? Each generated clip's nearest training clip, beside how near held-out real clips come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavita.metrics.distances import EPSILON, check_features

BLOCK = 256  # queries at once
# A clip nearer than this part of the usual distance of a held-out clip is called a copy; rounding is far below it.
COPY_RATIO = 1e-3
NEAR_SHARE = 0.05


@dataclass(frozen=True)
class Memorization:
    """nearest (n,): index of each generated clip's nearest training clip; distances (n,): Euclidean, to it;
    heldout_distances (h,): the same of held-out real clips, which no generator made; ratios (n,): distances over the
    median of heldout_distances; names (n,): of the nearest training clips.
    """

    nearest_real: np.ndarray
    names: list[str]
    distances: np.ndarray
    ratios: np.ndarray
    heldout_distances: np.ndarray

    @property
    def ratio(self) -> float:
        """Median of ratios: 1 where generated clips are as far from the training clips as other real clips are, 0
        where they are copies.
        """
        return float(np.median(self.ratios))

    @property
    def copies(self) -> np.ndarray:
        """Indices of generated clips that are copies of a training clip, as far as these features tell."""
        return np.flatnonzero(self.ratios <= COPY_RATIO)

    @property
    def near_share(self) -> float:
        """Share of generated clips nearer to the training clips than the nearest 5 % of held-out clips: 0.05 for
        clips that are as good as new.
        """
        return float(np.mean(self.distances < np.quantile(self.heldout_distances, NEAR_SHARE)))

    def closest(self, count: int) -> list[tuple[int, str, float, float]]:
        """(generated clip, name of its nearest training clip, distance, ratio) of the closest clips, closest first."""
        order = np.argsort(self.distances, kind="stable")[:count]
        return [(int(i), self.names[i], float(self.distances[i]), float(self.ratios[i])) for i in order]


def memorization(
    generated: np.ndarray, train: np.ndarray, heldout: np.ndarray, train_names: Sequence[str] | None = None
) -> Memorization:
    """Compare features (n, d), (m, d) and (h, d). train_names: m names; without them a clip is named by its index.

    A mirrored or shifted copy is as near as the feature network finds it; put mirrored training clips into train to
    find mirrored copies exactly. Raises ValueError as `check_features` does, for unequal widths, another number of
    names, or held-out clips half of which are training clips.
    """
    sets = {"generated": generated, "train": train, "held-out": heldout}
    x, t, h = (check_features(rows, name, 1) for name, rows in sets.items())
    if not x.shape[1] == t.shape[1] == h.shape[1]:
        raise ValueError(f"features: got widths {x.shape[1]}, {t.shape[1]} and {h.shape[1]}; use one extractor for all")
    if train_names is not None and len(train_names) != len(t):
        raise ValueError(f"memorization: got {len(train_names)} names for {len(t)} training clips")
    index, distances = nearest_real(x, t)
    usual = nearest_real(h, t)[1]
    middle = float(np.median(usual))
    if middle == 0:
        raise ValueError("memorization: half of the held-out clips are training clips; hold other clips out")
    names = [str(i) if train_names is None else str(train_names[i]) for i in index]
    return Memorization(index, names, distances, distances / middle, usual)


def nearest_real(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index (n,) and Euclidean distance (n,) of the reference (m, d) nearest to each query (n, d), float64.

    |q|^2 + |r|^2 - 2 q r finds candidates and is wrong by less than slack; among these, q - r decides, so that the
    distance of a copy is exactly 0. The first of equally near references is taken.
    """
    middle = references.mean(axis=0)
    q, r = queries - middle, references - middle
    q_squares, r_squares = np.einsum("nd,nd->n", q, q), np.einsum("md,md->m", r, r)
    slack = 8 * (queries.shape[1] + 8) * EPSILON * (q_squares + r_squares.max())
    index, distances = np.empty(len(q), dtype=np.int64), np.empty(len(q))
    for start in range(0, len(q), BLOCK):
        rows = slice(start, start + BLOCK)
        squares = q_squares[rows, None] + r_squares - 2 * q[rows] @ r.T
        limits = squares.min(axis=1) + 2 * slack[rows]
        for i, (row, limit) in enumerate(zip(squares, limits, strict=True), start):
            candidates = np.flatnonzero(row <= limit)
            exact = np.linalg.norm(references[candidates] - queries[i], axis=1)
            best = int(np.argmin(exact))
            index[i], distances[i] = candidates[best], exact[best]
    return index, distances
