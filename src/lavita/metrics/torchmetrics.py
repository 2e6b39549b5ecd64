"""Video scores as torchmetrics: clips in, in any order and from any number of processes, one number out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lavita.metrics.clip_metric import ClipMetric
from lavita.metrics.distances import inception_score, kernel_distance
from lavita.metrics.features.base import Extractor
from lavita.metrics.measures import frechet
from lavita.metrics.memorization import Memorization, memorization

__all__ = [
    "ClipMetric",
    "FrechetFrameDistance",
    "FrechetVideoDistance",
    "KernelVideoDistance",
    "MemorizationCheck",
    "VideoInceptionScore",
]


class FrechetVideoDistance(ClipMetric):
    """FVD: squared Frechet distance of two Gaussians fitted to the features; lower is better.

    In a LightningModule call `self.fvd.update(...)` in validation_step, with real and with generated clips, and
    `self.log("fvd", self.fvd)`: n clips of each are scored at the end of the epoch. `forward` is of no use, as the
    distance of a batch is another number.

    ddof, precision: of the statistics, see `Protocol`; None: the protocol's, and without one 0 and "float64". Other
    arguments as in `ClipMetric`. Source: Unterthiner et al. 2018 (arXiv:1812.01717), section 3; distance as in
    `lavita.metrics.distances.frechet_distance`.

    Example:
        A stand-in for the protocol's I3D, and few clips instead of 2048:

        >>> import torch
        >>> from lavita.metrics.features.base import Extractor
        >>> from lavita.metrics.torchmetrics import FrechetVideoDistance
        >>> class Colours(Extractor):
        ...     name, weights_hash, num_features, num_classes = "colours", "", 3, None
        ...
        ...     def forward_features(self, clips):  # uint8 (b, F, H, W, 3) -> (b, 3)
        ...         return clips.float().mean(dim=(1, 2, 3))
        ...
        ...     def forward_probabilities(self, clips):
        ...         raise NotImplementedError
        >>> fvd = FrechetVideoDistance(protocol="latte-2024", extractor=Colours(), n=10)
        >>> fvd.protocol.name, fvd.key_for(fvd.protocol.frames)
        ('latte-2024[n=10]', 'fvd_colours_n10_f16')
        >>> clips = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1, 1).expand(10, 16, 256, 256, 3)
        >>> fvd.update(clips, real=True)
        >>> fvd.update(clips + 10, real=False)
        >>> round(fvd.compute().item(), 6)  # each of three means moved by 10
        300.0
    """

    metric = "fvd"

    def __init__(
        self,
        extractor: Any = None,
        n: int | None = None,
        n_real: int | None = None,
        ddof: int | None = None,
        precision: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(extractor, n, n_real, changes={"ddof": ddof, "precision": precision}, **kwargs)
        p = self.protocol
        self.ddof = p.ddof if p is not None else ddof or 0
        self.precision = p.precision if p is not None else precision or "float64"

    def score(self) -> float:
        return frechet(self.real(), self.generated(), self.ddof, self.precision)


class FrechetFrameDistance(FrechetVideoDistance):
    """FID: squared Frechet distance of two Gaussians fitted to the features of single frames, all frames of all
    clips; lower is better. n counts clips: the frames of one clip are no independent samples.

    extractor: name, weights_hash, num_features and `frame_features(clips uint8 (B, F, H, W, 3)) -> float32 (B * F, d)`,
    the first clip's frames first. Source: Heusel et al. 2017, equation 6 (arXiv:1706.08500).

    Example:
        >>> import torch
        >>> from lavita.metrics.torchmetrics import FrechetFrameDistance
        >>> class MeanColour:  # in earnest: lavita.metrics.features.frame_encoders.load_frame_encoder(PATH)
        ...     name, weights_hash, num_features = "mean-colour", "none", 3
        ...     def frame_features(self, clips):
        ...         return clips.flatten(0, 1).float().mean(dim=(1, 2))
        >>> clips = torch.randint(0, 256, (4, 8, 32, 32, 3), dtype=torch.uint8)
        >>> metric = FrechetFrameDistance(MeanColour(), n=4)
        >>> metric.update(clips, real=True)
        >>> metric.update(clips, real=False)
        >>> metric.key_for(frames=8), round(metric.compute().item(), 6)
        ('fid_mean-colour_n4_f8', 0.0)
    """

    metric = "fid"

    @staticmethod
    def extract(extractor: Any, clips: np.ndarray | Tensor) -> Tensor:
        """Features of all frames of a clip in one row, float32 (B, F * d)."""
        wanted, rows = (len(clips) * clips.shape[1], extractor.num_features), extractor.frame_features(clips)
        if tuple(rows.shape) != wanted:
            raise ValueError(f"fid: extractor {extractor.name} gave {tuple(rows.shape)} features, wanted {wanted}")
        return rows.reshape(len(clips), -1)

    def score(self) -> float:
        frames = (rows.reshape(-1, self.extractor.num_features) for rows in (self.real(), self.generated()))
        return frechet(*frames, self.ddof, "float64")


class KernelVideoDistance(ClipMetric):
    """KVD: unbiased MMD^2 of the features with a cubic kernel; lower is better, around 0 for equal
    distributions.

    Source: Unterthiner et al. 2019 (FVD workshop version); Binkowski et al. 2018 (arXiv:1801.01401).

    Example:
        >>> import torch
        >>> from lavita.metrics.features.load import load_extractor
        >>> from lavita.metrics.torchmetrics import KernelVideoDistance
        >>> metric = KernelVideoDistance(load_extractor("embedded:extractor.safetensors"), n=4)
        >>> metric.update(torch.zeros(4, 8, 32, 32, 3, dtype=torch.uint8), real=True)
        >>> metric.update(torch.full((4, 8, 32, 32, 3), 255, dtype=torch.uint8), real=False)
        >>> bool(metric.compute() > 0)
        True
    """

    metric = "kvd"

    def score(self) -> float:
        return kernel_distance(self.real(), self.generated())


PROTOCOLS_OWN = "protocol"


class VideoInceptionScore(ClipMetric):
    """IS of the generated clips; higher is better. Real clips are no part of it: updates with real=True are
    ignored, so that one loop can feed all metrics. Raises ValueError for an extractor without class
    probabilities.

    splits, shuffle_seed: by default the protocol's, and without one 10 and 42; shuffle_seed None keeps the clips'
    order. Other arguments as in `ClipMetric`. Source: Saito et al. 2020 (arXiv:1811.09245), section 5 (C3D on UCF101);
    score as in `lavita.metrics.distances.inception_score`.

    Example:
        >>> import torch
        >>> from lavita.metrics.features.load import load_extractor
        >>> from lavita.metrics.torchmetrics import VideoInceptionScore
        >>> metric = VideoInceptionScore(load_extractor("embedded:extractor.safetensors"), n=8, splits=2)
        >>> metric.update(torch.randint(0, 256, (8, 8, 32, 32, 3), dtype=torch.uint8))
        >>> mean, deviation = metric.mean_and_deviation()
        >>> 1 <= mean <= metric.extractor.num_classes
        True
    """

    metric = "is"
    uses_real = False

    def __init__(
        self,
        extractor: Extractor | None = None,
        n: int | None = None,
        splits: int | None = None,
        shuffle_seed: int | str | None = PROTOCOLS_OWN,
        **kwargs: Any,
    ) -> None:
        super().__init__(extractor, n, changes={"is_splits": splits}, **kwargs)
        if self.extractor.num_classes is None:
            name = self.extractor.name
            raise ValueError(f"is: extractor {name} gives no class probabilities (no labels); leave IS out")
        p = self.protocol
        self.splits = p.is_splits if p is not None else splits or 10
        if shuffle_seed == PROTOCOLS_OWN:
            shuffle_seed = p.is_shuffle_seed if p is not None else 42
        elif p is not None:
            self.protocol = p.derive(is_shuffle_seed=shuffle_seed)
        self.shuffle_seed = shuffle_seed

    @staticmethod
    def extract(extractor: Any, clips: np.ndarray | Tensor) -> Tensor:
        """Class probabilities, float32 (B, K)."""
        return extractor.probabilities(clips)

    def update(self, clips: np.ndarray | Tensor, real: bool = False, indices: Sequence[int] | None = None) -> None:
        """As in `ClipMetric.update`; real clips are ignored."""
        if not real:
            super().update(clips, real, indices)

    def score(self) -> float:
        """The mean over the splits."""
        return self.mean_and_deviation()[0]

    def mean_and_deviation(self) -> tuple[float, float]:
        """Mean and standard deviation (ddof 0) over the splits."""
        return inception_score(self.generated(), self.splits, self.shuffle_seed)


class MemorizationCheck(ClipMetric):
    """How near generated clips come to training clips, in units of how near held-out real clips come: about 1 for new
    clips, 0 for copies. Updates name their side: "train", "heldout" or "generated". `found()` has the details.

    names: the training clips' names under "train". Source: Meehan et al. 2020 (arXiv:2004.05675), who test
    whether the same two sets of distances differ.

    Example:
        >>> import torch
        >>> from lavita.metrics.features.load import load_extractor
        >>> from lavita.metrics.torchmetrics import MemorizationCheck
        >>> train, heldout = torch.randint(0, 256, (2, 4, 8, 32, 32, 3), dtype=torch.uint8)
        >>> check = MemorizationCheck(load_extractor("embedded:extractor.safetensors"), n=4, n_train=4, n_heldout=4)
        >>> for side, clips in (("train", train), ("heldout", heldout), ("generated", train)):
        ...     check.update(clips, side)
        >>> check.compute().item()  # copies
        0.0
    """

    metric = "memorisation"
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

    def found(self) -> Memorization:
        """Nearest training clips, distances and ratios. Raises ValueError as `ClipMetric.side` does.

        In several processes call it where the metric is synchronised (`with metric.sync_context():`).
        """
        train, heldout, generated = (self.side(side, n) for side, n in self.counts.items())
        return memorization(generated, train, heldout, self.names.get("train"))

    def score(self) -> float:
        """The median ratio."""
        return self.found().ratio
