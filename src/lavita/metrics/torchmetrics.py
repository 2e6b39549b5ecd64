"""Video scores as torchmetrics: clips in, in any order and from any number of processes, one number out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lavita.metrics.distances import check_features, frechet_distance, inception_score, kernel_distance
from lavita.metrics.features.base import I3D_TORCHSCRIPT_HASH, Extractor
from lavita.metrics.memorization import Memorization, memorization

# Rows of one clip that two processes computed may differ by float32 rounding on a GPU; another clip's differ by more.
SAME_CLIP = 1e-3


def ordered(rows: Sequence[Tensor] | Tensor, indices: Sequence[Tensor] | Tensor, n: int, name: str) -> np.ndarray:
    """Return rows (n, d), float64, by clip index; a clip that several processes saw counts once.

    Raises ValueError if there are fewer than n clips (says how many are missing) or more, or if one index came with
    two clips.
    """
    if not len(rows):
        raise ValueError(f"{name} clips: got none, the protocol wants {n}; {n} are missing")
    values = (torch.cat(list(rows)) if not isinstance(rows, Tensor) else rows).cpu().double().numpy()
    order = (torch.cat(list(indices)) if not isinstance(indices, Tensor) else indices).cpu().numpy()
    kept, first, place = np.unique(order, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[place] != np.arange(len(order)))
    if len(again):
        one, other = values[again], values[first[place[again]]]
        apart = np.abs(one - other).max(axis=1) > SAME_CLIP * np.abs(other).max(axis=1)  # never true of NaN
        if apart.any():
            raise ValueError(
                f"{name} clips: index {order[again[apart][0]]} came with two clips; give each process its clips' own "
                "indices"
            )
    if len(kept) < n:
        raise ValueError(f"{name} clips: got {len(kept)}, the protocol wants {n}; {n - len(kept)} are missing")
    if len(kept) > n:
        raise ValueError(f"{name} clips: got {len(kept)}, the protocol wants exactly {n}; leave {len(kept) - n} out")
    return values[first]


def gather_rows(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors (n_k, ...) of all processes k that have any rows, in the order of the processes.

    torchmetrics' own gathering fails where a process has no clip: it sends an empty list as one axis of float32.
    """
    parts: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(parts, tensor, group=group)
    return [part for part in parts if len(part)] or parts[:1]


AGAINST = (None, "train", "heldout")


def metric_key(
    metric: str,
    extractor_name: str,
    n: int,
    frames: int,
    weights_hash: str | None = None,
    standard: tuple[str, str | None] = ("i3d", I3D_TORCHSCRIPT_HASH),
    against: str | None = None,
) -> str:
    """Return `<metric>[-<against>][_<extractor>]_n<generated>_f<frames>`.

    against: "train" or "heldout" where the real clips are those of one split and not the protocol's own.

    The extractor part is absent only if name and weights hash are those of standard (name, recorded hash); a
    standard without a recorded hash (None) is never met, so nothing made with other weights passes for it.

    Example:
        >>> from lavita.metrics.torchmetrics import metric_key
        >>> metric_key("fvd", "videomae", n=2048, frames=16)
        'fvd_videomae_n2048_f16'
    """
    if against not in AGAINST:
        raise ValueError(f"{metric}: against is {against!r}, allowed None, 'train', 'heldout'")
    is_standard = standard[1] is not None and (extractor_name, weights_hash) == standard
    side = "" if against is None else f"-{against}"
    return f"{metric}{side}{'' if is_standard else '_' + extractor_name}_n{n}_f{frames}"


class ClipMetric(Metric):
    """Keeps one row a clip and its index for the real and the generated clips; subclasses turn rows into a
    number.

    The state is lists of tensors gathered with 'cat', so the value does not depend on batch size or on how
    clips were spread over processes, provided that each update names its clips' indices.

    Example:
        >>> import torch
        >>> from lavita.metrics.features.load import load_extractor
        >>> from lavita.metrics.torchmetrics import ClipMetric
        >>> class MeanDistance(ClipMetric):
        ...     metric, unit, higher_is_better = "mean", "feature distance", False
        ...     def compute(self):
        ...         return torch.tensor(abs(self.real().mean(0) - self.generated().mean(0)).max())
        >>> metric = MeanDistance(load_extractor("embedded:extractor.safetensors"), n=4)
        >>> clips = torch.randint(0, 256, (4, 8, 32, 32, 3), dtype=torch.uint8)
        >>> metric.update(clips, real=True)
        >>> metric.update(clips.flip(0), real=False, indices=[3, 2, 1, 0])
        >>> metric.key_for(frames=8), metric.compute().item()
        ('mean_embedded_n4_f8', 0.0)
    """

    is_differentiable = False
    full_state_update = False
    uses_real: ClassVar[bool] = True
    sides: ClassVar[tuple[str, ...]] = ("real", "generated")
    metric: ClassVar[str]
    unit: ClassVar[str]
    standard: ClassVar[tuple[str, str | None]] = ("i3d", I3D_TORCHSCRIPT_HASH)

    def __init__(
        self,
        extractor: Extractor,
        n: int,
        n_real: int | None = None,
        against: str | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        """n, n_real: generated and real clips that the protocol wants. against: see `metric_key`. names: the clips'
        names by index, for messages, under "real" and "generated".
        """
        super().__init__(**{"dist_sync_fn": gather_rows} | kwargs)
        if n < 2:
            raise ValueError(f"{self.metric}: got n={n}, wanted at least 2 clips")
        metric_key(self.metric, "", n, 1, against=against)
        self.extractor, self.n, self.n_real = extractor, n, n if n_real is None else n_real
        self.against, self.names = against, dict(names or {})
        self.frames: int | None = None
        for side in self.sides:
            for state in (f"{side}_rows", f"{side}_indices"):
                self.add_state(state, default=[], dist_reduce_fx="cat")

    @classmethod
    def key(
        cls, extractor_name: str, n: int, frames: int, weights_hash: str | None = None, against: str | None = None
    ) -> str:
        """The name of a row made with this metric; see `metric_key`."""
        return metric_key(cls.metric, extractor_name, n, frames, weights_hash, cls.standard, against)

    def key_for(self, frames: int) -> str:
        """`key` of this metric's own extractor, weights and number of clips, for clips of so many frames."""
        return self.key(self.extractor.name, self.n, frames, self.extractor.weights_hash, self.against)

    def rows(self, clips: np.ndarray | Tensor) -> Tensor:
        """What is kept of clips uint8 (B, F, H, W, 3): float32 (B, d)."""
        return self.extractor.features(clips)

    def update(self, clips: np.ndarray | Tensor, real: bool, indices: Sequence[int] | None = None) -> None:
        """Add clips, uint8 (B, F, H, W, 3), 0..255. indices: their numbers in their set, from 0 (default: as
        they come, which is right in one process only). Raises ValueError for another number of frames than
        before.
        """
        self.add_clips("real" if real else "generated", clips, indices)

    def add_rows(self, rows: Tensor, real: bool, indices: Sequence[int] | None = None) -> None:
        """Add rows (B, d) that were computed before, e.g. the real clips' features that a suite keeps."""
        # torchmetrics warns of a metric that was never updated; rows added here are an update.
        self._update_count += 1
        self.add("real" if real else "generated", rows, indices)

    def add_clips(self, side: str, clips: np.ndarray | Tensor, indices: Sequence[int] | None) -> None:
        """Add a side's clips; see `update`."""
        if self.frames not in (None, clips.shape[1]):
            raise ValueError(f"{self.metric}: got clips of {clips.shape[1]} frames after clips of {self.frames}")
        self.frames = int(clips.shape[1])
        self.add(side, self.rows(clips), indices)

    def add(self, side: str, rows: Tensor, indices: Sequence[int] | None) -> None:
        """Add a side's rows (B, d) under their clips' indices."""
        kept, numbers = getattr(self, f"{side}_rows"), getattr(self, f"{side}_indices")
        start = sum(len(part) for part in kept)
        given = torch.as_tensor(range(start, start + len(rows)) if indices is None else list(indices))
        if len(given) != len(rows):
            raise ValueError(f"{self.metric}: got {len(given)} indices for {len(rows)} clips")
        kept.append(rows.float().cpu())
        numbers.append(given.long())

    def side(self, side: str, n: int) -> np.ndarray:
        """Rows of a side's clips, float64 (n, d), in clip order. Raises ValueError for missing clips, and for one
        that is not finite, by its name.
        """
        rows = ordered(getattr(self, f"{side}_rows"), getattr(self, f"{side}_indices"), n, side)
        return check_features(rows, side, 1, self.names.get(side))

    def real(self) -> np.ndarray:
        """Rows of the real clips, float64 (n_real, d), in clip order."""
        return self.side("real", self.n_real)

    def generated(self) -> np.ndarray:
        """Rows of the generated clips, float64 (n, d), in clip order."""
        return self.side("generated", self.n)


__all__ = [
    "ClipMetric",
    "FrechetFrameDistance",
    "FrechetVideoDistance",
    "KernelVideoDistance",
    "MemorizationCheck",
    "VideoInceptionScore",
    "metric_key",
]


class FrechetVideoDistance(ClipMetric):
    """FVD: squared Frechet distance of two Gaussians fitted to the features; lower is better.

    Source: Unterthiner et al. 2018 (arXiv:1812.01717), section 3; distance as in `frechet_distance`.

    Example:
        >>> import torch
        >>> from lavita.metrics.features.load import load_extractor
        >>> from lavita.metrics.torchmetrics import FrechetVideoDistance
        >>> real, generated = torch.randint(0, 256, (2, 8, 8, 32, 32, 3), dtype=torch.uint8)
        >>> metric = FrechetVideoDistance(load_extractor("embedded:extractor.safetensors"), n=8)
        >>> for part in (slice(0, 4), slice(4, 8)):  # batches, in validation_step
        ...     metric.update(real[part], real=True)
        ...     metric.update(generated[part], real=False)
        >>> distance = metric.compute()  # once, in on_validation_epoch_end
        >>> distance.dtype, bool(distance > 0)
        (torch.float64, True)
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

    metric, unit, higher_is_better = "kvd", "squared kernel distance", False

    def compute(self) -> Tensor:
        """Return a float64 scalar. Raises ValueError for missing clips or features that are not finite."""
        return torch.tensor(kernel_distance(self.real(), self.generated()), dtype=torch.float64)


class VideoInceptionScore(ClipMetric):
    """IS of the generated clips; higher is better. Real clips are no part of it: updates with real=True are
    ignored, so that one loop can feed all metrics. Raises ValueError for an extractor without class
    probabilities.

    Source: Saito et al. 2020 (arXiv:1811.09245), section 5 (C3D on UCF101); score as in `inception_score`.

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

    def found(self) -> Memorization:
        """Nearest training clips, distances and ratios. Raises ValueError as `ClipMetric.side` does.

        In several processes call it where the metric is synchronised (`with metric.sync_context():`).
        """
        train, heldout, generated = (self.side(side, n) for side, n in self.counts.items())
        return memorization(generated, train, heldout, self.names.get("train"))

    def compute(self) -> Tensor:
        """Return the median ratio, a float64 scalar. Raises ValueError as `found` does."""
        return torch.tensor(self.found().ratio, dtype=torch.float64)
