"""Video scores as torchmetrics: clips in, in any order and from any number of processes, one number out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lavita.score.clip_metric import ClipMetric, metric_key
from lavita.score.distance import frechet_distance, kernel_distance
from lavita.score.extractors import Extractor
from lavita.score.inception import inception_score
from lavita.score.memorisation import Memorisation, memorisation

__all__ = [
    "ClipMetric",
    "FrechetFrameDistance",
    "FrechetVideoDistance",
    "KernelVideoDistance",
    "MemorisationCheck",
    "VideoInceptionScore",
    "metric_key",
]


class FrechetVideoDistance(ClipMetric):
    """FVD: squared Frechet distance of two Gaussians fitted to the features; lower is better.

    Source: Unterthiner et al. 2018 (arXiv:1812.01717), section 3; distance as in `frechet_distance`.
    """

    metric, unit, higher_is_better = "fvd", "squared feature distance", False

    def __init__(self, extractor: Any, n: int, n_real: int | None = None, ddof: int = 0, **kwargs: Any) -> None:
        super().__init__(extractor, n, n_real, **kwargs)
        self.ddof = ddof

    def compute(self) -> Tensor:
        """Return a float64 scalar. Raises ValueError for missing clips or features that are not finite."""
        return torch.tensor(frechet_distance(self.real(), self.generated(), self.ddof), dtype=torch.float64)


class FrechetFrameDistance(FrechetVideoDistance):
    """FID: squared Frechet distance of two Gaussians fitted to the features of single frames, all frames of all
    clips; lower is better. n counts clips: the frames of one clip are no independent samples.

    extractor: name, weights_hash, num_features and `frame_features(clips uint8 (B, F, H, W, 3)) -> float32 (B * F, d)`,
    the first clip's frames first. Source: Heusel et al. 2017, equation 6 (arXiv:1706.08500).
    """

    metric, unit = "fid", "squared feature distance"
    standard = ("inception", None)

    def rows(self, clips: np.ndarray | Tensor) -> Tensor:
        """Features of all frames of a clip in one row, float32 (B, F * d)."""
        wanted, rows = (len(clips) * clips.shape[1], self.extractor.num_features), self.extractor.frame_features(clips)
        if tuple(rows.shape) != wanted:
            raise ValueError(f"fid: extractor {self.extractor.name} gave {tuple(rows.shape)} features, wanted {wanted}")
        return rows.reshape(len(clips), -1)

    def compute(self) -> Tensor:
        """Return a float64 scalar. Raises ValueError for missing clips or features that are not finite."""
        frames = (rows.reshape(-1, self.extractor.num_features) for rows in (self.real(), self.generated()))
        return torch.tensor(frechet_distance(*frames, self.ddof), dtype=torch.float64)


class KernelVideoDistance(ClipMetric):
    """KVD: unbiased MMD^2 of the features with a cubic kernel; lower is better, around 0 for equal
    distributions.

    Source: Unterthiner et al. 2019 (FVD workshop version); Binkowski et al. 2018 (arXiv:1801.01401).
    """

    metric, unit, higher_is_better = "kvd", "squared kernel distance", False

    def compute(self) -> Tensor:
        """Return a float64 scalar. Raises ValueError for missing clips or features that are not finite."""
        return torch.tensor(kernel_distance(self.real(), self.generated()), dtype=torch.float64)


class VideoInceptionScore(ClipMetric):
    """IS of the generated clips; higher is better. Real clips are no part of it: updates with real=True are
    ignored, so that one loop can feed all metrics. Raises ValueError for an extractor without class
    probabilities.

    Source: Saito et al. 2020 (arXiv:1811.09245), section 5 (C3D on UCF101); score as in `inception_score`.
    """

    metric, unit, higher_is_better = "is", "effective number of classes", True
    uses_real = False
    standard = ("c3d", None)

    def __init__(
        self, extractor: Extractor, n: int, splits: int = 10, shuffle_seed: int | None = 42, **kwargs: Any
    ) -> None:
        super().__init__(extractor, n, **kwargs)
        if extractor.num_classes is None:
            raise ValueError(f"is: extractor {extractor.name} gives no class probabilities (no labels); leave IS out")
        self.splits, self.shuffle_seed = splits, shuffle_seed

    def rows(self, clips: np.ndarray | Tensor) -> Tensor:
        """Class probabilities, float32 (B, K)."""
        return self.extractor.probabilities(clips)

    def update(self, clips: np.ndarray | Tensor, real: bool = False, indices: Sequence[int] | None = None) -> None:
        """As in `ClipMetric.update`; real clips are ignored."""
        if not real:
            super().update(clips, real, indices)

    def compute(self) -> Tensor:
        """Return the mean over the splits, a float64 scalar. Raises ValueError for missing clips."""
        return torch.tensor(self.mean_and_deviation()[0], dtype=torch.float64)

    def mean_and_deviation(self) -> tuple[float, float]:
        """Mean and standard deviation (ddof 0) over the splits."""
        return inception_score(self.generated(), self.splits, self.shuffle_seed)


class MemorisationCheck(ClipMetric):
    """How near generated clips come to training clips, in units of how near held-out real clips come: about 1 for new
    clips, 0 for copies. Updates name their side: "train", "heldout" or "generated". `found()` has the details.

    names: the training clips' names under "train". Source: Meehan et al. 2020 (arXiv:2004.05675), who test
    whether the same two sets of distances differ.
    """

    metric, unit, higher_is_better = "memorisation", "distance of held-out clips", None
    sides = ("train", "heldout", "generated")

    def __init__(self, extractor: Extractor, n: int, n_train: int, n_heldout: int, **kwargs: Any) -> None:
        super().__init__(extractor, n, **kwargs)
        self.counts = {"train": n_train, "heldout": n_heldout, "generated": n}

    def update(self, clips: np.ndarray | Tensor, side: str, indices: Sequence[int] | None = None) -> None:
        """Add clips, uint8 (B, F, H, W, 3), 0..255, to a side; indices as in `ClipMetric.update`."""
        self.add_clips(self.checked(side), clips, indices)

    def add_rows(self, rows: Tensor, side: str, indices: Sequence[int] | None = None) -> None:
        """Add rows (B, d) that were computed before to a side."""
        self._update_count += 1
        self.add(self.checked(side), rows, indices)

    def checked(self, side: str) -> str:
        """side. Raises ValueError where it is none."""
        if side not in self.sides:
            raise ValueError(f"memorisation: got side {side!r}, allowed {', '.join(self.sides)}")
        return side

    def found(self) -> Memorisation:
        """Nearest training clips, distances and ratios. Raises ValueError as `ClipMetric.side` does.

        In several processes call it where the metric is synchronised (`with metric.sync_context():`).
        """
        train, heldout, generated = (self.side(side, n) for side, n in self.counts.items())
        return memorisation(generated, train, heldout, self.names.get("train"))

    def compute(self) -> Tensor:
        """Return the median ratio, a float64 scalar. Raises ValueError as `found` does."""
        return torch.tensor(self.found().ratio, dtype=torch.float64)
