"""What every video metric shares: its name in tables, and rows of clips kept in any order, from any process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lavita.score.clip_rows import gather_rows, ordered
from lavita.score.distance import check_features
from lavita.score.extractors import I3D_TORCHSCRIPT_HASH, Extractor

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
