"""Video scores as torchmetrics: clips in, in any order and from any number of processes, one number out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lavita.score.distance import frechet_distance, kernel_distance
from lavita.score.extractors import I3D_TORCHSCRIPT_HASH, Extractor
from lavita.score.inception import inception_score


def metric_key(
    metric: str,
    extractor_name: str,
    n: int,
    frames: int,
    weights_hash: str | None = None,
    standard: tuple[str, str | None] = ("i3d", I3D_TORCHSCRIPT_HASH),
) -> str:
    """Return `<metric>[_<extractor>]_n<generated>_f<frames>`.

    The extractor part is absent only if name and weights hash are those of standard (name, recorded hash); a
    standard without a recorded hash (None) is never met, so nothing made with other weights passes for it.
    """
    is_standard = standard[1] is not None and (extractor_name, weights_hash) == standard
    return f"{metric}{'' if is_standard else '_' + extractor_name}_n{n}_f{frames}"


def ordered(rows: Sequence[Tensor] | Tensor, indices: Sequence[Tensor] | Tensor, n: int, name: str) -> np.ndarray:
    """Return rows (n, d), float64, by clip index; a clip that several processes saw counts once.

    Raises ValueError if there are fewer than n clips (says how many are missing) or more.
    """
    if not len(rows):
        raise ValueError(f"{name} clips: got none, the protocol wants {n}; {n} are missing")
    values = torch.cat(list(rows)) if not isinstance(rows, Tensor) else rows
    order = torch.cat(list(indices)) if not isinstance(indices, Tensor) else indices
    kept, first = np.unique(order.cpu().numpy(), return_index=True)
    if len(kept) < n:
        raise ValueError(f"{name} clips: got {len(kept)}, the protocol wants {n}; {n - len(kept)} are missing")
    if len(kept) > n:
        raise ValueError(f"{name} clips: got {len(kept)}, the protocol wants exactly {n}; leave {len(kept) - n} out")
    return values.cpu().double().numpy()[first]


class ClipMetric(Metric):
    """Keeps one row a clip and its index for the real and the generated clips; subclasses turn rows into a
    number.

    The state is lists of tensors gathered with 'cat', so the value does not depend on batch size or on how
    clips were spread over processes, provided that each update names its clips' indices.
    """

    is_differentiable = False
    full_state_update = False
    uses_real: ClassVar[bool] = True
    metric: ClassVar[str]
    unit: ClassVar[str]
    standard: ClassVar[tuple[str, str | None]] = ("i3d", I3D_TORCHSCRIPT_HASH)

    def __init__(self, extractor: Extractor, n: int, n_real: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if n < 2:
            raise ValueError(f"{self.metric}: got n={n}, wanted at least 2 clips")
        self.extractor, self.n, self.n_real = extractor, n, n if n_real is None else n_real
        self.frames: int | None = None
        for state in ("real_rows", "real_indices", "generated_rows", "generated_indices"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    @classmethod
    def key(cls, extractor_name: str, n: int, frames: int, weights_hash: str | None = None) -> str:
        """The name of a row made with this metric; see `metric_key`."""
        return metric_key(cls.metric, extractor_name, n, frames, weights_hash, cls.standard)

    def key_for(self, frames: int) -> str:
        """`key` of this metric's own extractor, weights and number of clips, for clips of so many frames."""
        return self.key(self.extractor.name, self.n, frames, self.extractor.weights_hash)

    def rows(self, clips: np.ndarray | Tensor) -> Tensor:
        """What is kept of clips uint8 (B, F, H, W, 3): float32 (B, d)."""
        return self.extractor.features(clips)

    def update(self, clips: np.ndarray | Tensor, real: bool, indices: Sequence[int] | None = None) -> None:
        """Add clips, uint8 (B, F, H, W, 3), 0..255. indices: their numbers in their set, from 0 (default: as
        they come, which is right in one process only). Raises ValueError for another number of frames than
        before.
        """
        if self.frames not in (None, clips.shape[1]):
            raise ValueError(f"{self.metric}: got clips of {clips.shape[1]} frames after clips of {self.frames}")
        self.frames = int(clips.shape[1])
        self.add_rows(self.rows(clips), real, indices)

    def add_rows(self, rows: Tensor, real: bool, indices: Sequence[int] | None = None) -> None:
        """Add rows (B, d) that were computed before, e.g. the real clips' features that a suite keeps."""
        kept = self.real_rows if real else self.generated_rows
        start = sum(len(part) for part in kept)
        numbers = torch.as_tensor(range(start, start + len(rows)) if indices is None else list(indices))
        if len(numbers) != len(rows):
            raise ValueError(f"{self.metric}: got {len(numbers)} indices for {len(rows)} clips")
        # torchmetrics warns of a metric that was never updated; rows added here are an update.
        self._update_count += 1
        kept.append(rows.float().cpu())
        (self.real_indices if real else self.generated_indices).append(numbers.long())

    def real(self) -> np.ndarray:
        """Rows of the real clips, float64 (n_real, d), in clip order."""
        return ordered(self.real_rows, self.real_indices, self.n_real, "real")

    def generated(self) -> np.ndarray:
        """Rows of the generated clips, float64 (n, d), in clip order."""
        return ordered(self.generated_rows, self.generated_indices, self.n, "generated")


class FrechetVideoDistance(ClipMetric):
    """FVD: squared Frechet distance of two Gaussians fitted to the features; lower is better.

    Source: Unterthiner et al. 2018 (arXiv:1812.01717), section 3; distance as in `frechet_distance`.
    """

    metric, unit, higher_is_better = "fvd", "squared feature distance", False

    def __init__(self, extractor: Extractor, n: int, n_real: int | None = None, ddof: int = 0, **kwargs: Any) -> None:
        super().__init__(extractor, n, n_real, **kwargs)
        self.ddof = ddof

    def compute(self) -> Tensor:
        """Return a float64 scalar. Raises ValueError for missing clips or features that are not finite."""
        return torch.tensor(frechet_distance(self.real(), self.generated(), self.ddof), dtype=torch.float64)


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
