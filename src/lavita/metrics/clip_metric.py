"""What the video scores of `lavita.metrics.torchmetrics` share: one row per clip, in any order, from any process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lavita.config.compose import read_protocol
from lavita.config.protocol import Protocol
from lavita.metrics.distances import check_features
from lavita.metrics.features.base import INSIDE, Extractor
from lavita.metrics.features.load import check_recorded, load_extractor
from lavita.metrics.table import METRICS, NetworkId, metric_key, row_named

# Rows of one clip that two processes computed may differ by float32 rounding on a GPU; another clip's differ by more.
SAME_CLIP = 1e-3


class MissingClips(ValueError):
    """Fewer clips than the protocol scores."""


def ordered(rows: Sequence[Tensor] | Tensor, indices: Sequence[Tensor] | Tensor, n: int, name: str) -> np.ndarray:
    """Return rows (n, d), float64, by clip index; a clip that several processes saw counts once.

    Raises MissingClips if there are fewer than n clips (says how many are missing), ValueError if there are more, or
    if one index came with two clips.
    """
    if not len(rows):
        raise MissingClips(f"{name} clips: got none, the protocol wants {n}; {n} are missing")
    values = (torch.cat(list(rows)) if not isinstance(rows, Tensor) else rows).cpu().double().numpy()
    order = (torch.cat(list(indices)) if not isinstance(indices, Tensor) else indices).cpu().numpy()
    kept, first, place = np.unique(order, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[place] != np.arange(len(order)))
    if len(again):
        one, other = values[again], values[first[place[again]]]
        differ = np.abs(one - other).max(axis=1) > SAME_CLIP * np.abs(other).max(axis=1)  # never true of NaN
        if differ.any():
            raise ValueError(
                f"{name} clips: index {order[again[differ][0]]} came with two clips; give each process its clips' own "
                "indices"
            )
    if len(kept) < n:
        raise MissingClips(f"{name} clips: got {len(kept)}, the protocol wants {n}; {n - len(kept)} are missing")
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


def overridden(protocol: str | Protocol, n: int | None, n_real: int | None, changes: Mapping[str, Any]) -> Protocol:
    """A protocol by name or itself, with what is not None overridden, which its name says. Raises ConfigError."""
    preset = read_protocol(protocol) if isinstance(protocol, str) else protocol
    counts = {"n": n} if n_real is None else {"n_generated": n, "n_real": n_real}
    if n is not None and n < preset.is_splits:  # as evaluate.py --clips has it
        changes = {"is_splits": 1} | {key: value for key, value in changes.items() if value is not None}
    wanted = {key: value for key, value in {**counts, **changes}.items() if value is not None}
    return preset.derive(**wanted) if wanted else preset


class ClipMetric(Metric):
    """Keeps one row per clip and its index for the real and the generated clips; subclasses turn rows into a
    number.

    The state is lists of tensors gathered with 'cat', so the value does not depend on batch size or on how
    clips were spread over processes, provided that each update names its clips' indices. Unit and direction are those
    of the metric's row in `lavita.metrics.table`.

    Example:
        >>> import torch
        >>> from lavita.metrics.features.load import load_extractor
        >>> from lavita.metrics.torchmetrics import ClipMetric
        >>> class LargestShift(ClipMetric):  # a variant of a metric that has a row in the table
        ...     metric = "fvd"
        ...     def score(self):
        ...         return abs(self.real().mean(0) - self.generated().mean(0)).max()
        >>> metric = LargestShift(load_extractor("embedded:extractor.safetensors"), n=4)
        >>> clips = torch.randint(0, 256, (4, 8, 32, 32, 3), dtype=torch.uint8)
        >>> metric.update(clips, real=True)
        >>> metric.update(clips.flip(0), real=False, indices=[3, 2, 1, 0])
        >>> metric.key_for(frames=8), metric.compute().item()
        ('fvd_embedded_n4_f8', 0.0)
    """

    is_differentiable = False
    full_state_update = False
    uses_real: ClassVar[bool] = True
    sides: ClassVar[tuple[str, ...]] = ("real", "generated")
    metric: ClassVar[str]

    def __init__(
        self,
        extractor: Any = None,
        n: int | None = None,
        n_real: int | None = None,
        against: str | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
        *,
        protocol: str | Protocol | None = None,
        weights: Path | str | None = None,
        device: str = "cpu",
        offline: bool = False,
        incomplete: str | None = None,
        changes: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Parameters
        ----------
        extractor: the feature network; None: the protocol's own.
        n, n_real: generated and real clips that are scored; None: the protocol's. n alone sets both.
        against: "train" or "heldout" where the real clips are those of one split and not the protocol's own.
        names: the clips' names by index, for messages, under "real" and "generated".
        protocol: a preset of configs/protocols by name, or a Protocol. What other arguments override stands in the
            name of `self.protocol`, e.g. latte-2024[n=64].
        weights, device, offline: of the protocol's own network: its file (None: in the cache of weights, or fetched),
            where it runs, and whether nothing may be fetched.
        incomplete: what `compute` does where clips are missing: "raise", or "nan", which also warns. None: "nan" with a
            protocol, since Lightning's sanity check computes every metric of a few batches; else "raise".
        changes: fields of the protocol that a subclass's arguments override; None is no change.
        """
        super().__init__(**{"dist_sync_fn": gather_rows} | kwargs)
        self.row = row_named(self.metric, against)
        self.against, self.names = against, dict(names or {})
        self.protocol = None if protocol is None else overridden(protocol, n, n_real, changes or {})
        if self.protocol is not None:
            n, n_real = self.protocol.n_generated, self.protocol.n_real
        if n is None or (extractor is None and self.protocol is None):
            missing = "n" if n is None else "extractor"
            raise ValueError(f"{self.metric}: {missing} is missing; give it, or a protocol, which says it")
        if n < 2:
            raise ValueError(f"{self.metric}: got n={n}, wanted at least 2 clips")
        self.incomplete = incomplete or ("raise" if self.protocol is None else "nan")
        if self.incomplete not in ("raise", "nan"):
            raise ValueError(f"{self.metric}: incomplete is {incomplete!r}, allowed 'raise', 'nan'")
        self.n, self.n_real = n, n if n_real is None else n_real
        pair = (extractor, extractor) if extractor is not None else self.own_networks(weights, device, offline)
        self.real_extractor, self.extractor = pair
        self.frames: int | None = None
        for side in self.sides:
            for state in (f"{side}_rows", f"{side}_indices"):
                self.add_state(state, default=[], dist_reduce_fx="cat")

    @property
    def unit(self) -> str:
        """Of the value."""
        return self.row.unit

    @property
    def higher_is_better(self) -> bool | None:
        """None where neither direction is better."""
        lower = METRICS[self.metric].lower_is_better
        return None if lower is None else not lower

    def own_networks(self, weights: Path | str | None, device: str, offline: bool) -> tuple[Extractor, Extractor]:
        """The protocol's networks for real and for generated clips. Raises ValueError for a network that is nowhere,
        and for another file than the protocol records.
        """
        p, array = self.protocol, self.row.array
        ways: tuple[str | None, ...] = (None, None)
        if array == "probabilities":
            key, name, recorded = "is_extractor", p.is_extractor, p.is_extractor_hash
        elif array == "features":
            key, name, recorded = "extractor", p.extractor, p.extractor_hash
            ways = tuple(None if way == INSIDE else way for way in (p.real_preprocess, p.generated_preprocess))
        else:
            raise ValueError(f"{self.metric}: extractor is missing; no protocol names one that gives {array}")
        found = {way: load_extractor(name, weights, device, way, offline=offline) for way in ways}
        check_recorded(key, recorded, found[ways[0]])
        return found[ways[0]], found[ways[1]]

    @classmethod
    def key(
        cls, extractor_name: str, n: int, frames: int, weights_hash: str | None = None, against: str | None = None
    ) -> str:
        """The name of a score made with this metric; see `lavita.metrics.table.metric_key`."""
        return metric_key(row_named(cls.metric, against), n, frames, NetworkId(extractor_name, weights_hash))

    def key_for(self, frames: int) -> str:
        """`key` of this metric's own extractor, weights and number of clips, for clips of so many frames."""
        return self.key(self.extractor.name, self.n, frames, self.extractor.weights_hash, self.against)

    @staticmethod
    def extract(extractor: Any, clips: np.ndarray | Tensor) -> Tensor:
        """What is kept of clips uint8 (B, F, H, W, 3): float32 (B, d)."""
        return extractor.features(clips)

    def score(self) -> float:
        """The number of all clips. Raises MissingClips, and ValueError for features that are not finite."""
        raise NotImplementedError("a metric of clips defines score")

    def compute(self) -> Tensor:
        """Return the score, a float64 scalar. Raises ValueError for missing clips, unless `incomplete` says nan, and
        for features that are not finite.
        """
        try:
            return torch.tensor(self.score(), dtype=torch.float64)
        except MissingClips as error:
            if self.incomplete == "raise":
                raise
            warnings.warn(f"{self.metric}: {error}; the score is nan", stacklevel=2)
            return torch.tensor(float("nan"), dtype=torch.float64)

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
        p = self.protocol
        if p is not None and tuple(clips.shape[1:4]) != (p.frames, p.resolution, p.resolution):
            raise ValueError(
                f"{self.metric}: got clips of {clips.shape[1]} frames of {clips.shape[3]}x{clips.shape[2]}, protocol "
                f"{p.name} scores {p.frames} of {p.resolution}x{p.resolution}; cut and resize them, or derive it"
            )
        self.frames = int(clips.shape[1])
        self.add(side, self.extract(self.extractor if side == "generated" else self.real_extractor, clips), indices)

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
