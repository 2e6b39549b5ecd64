"""A score: a number, what it was made from, and what is known of it; records, rows and stored comparisons hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lavita.results.typed_json import from_json, to_json


@dataclass(frozen=True)
class NearestClip:
    """A generated clip, by index, and the training clip that it comes nearest to; ratio: the distance in units of the
    median one of held-out clips.
    """

    clip: int
    training_clip: str
    distance: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number and what is known of it; None for what is not.

    ci_low, ci_high, ci_kind: its interval at the same number of clips. extrapolated, with extrapolated_low and _high:
    in the limit of infinite samples; interval_remark: where its line fits badly. n_real, n_generated: clips, where
    they are not the protocol's. copies: generated clips that are training clips. closest: the clips nearest to these.
    """

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    ci_kind: str | None = None
    extrapolated: float | None = None
    extrapolated_low: float | None = None
    extrapolated_high: float | None = None
    interval_remark: str | None = None
    n_real: int | None = None
    n_generated: int | None = None
    copies: int | None = None
    closest: tuple[NearestClip, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Score(Measurement):
    """A measurement as a record holds it. metric: its full name, see `lavita.metrics.table.metric_key`; stage: what was
    scored (train, untrained, frames, generated, real, codec, autoencoder); lower_is_better None: neither is. extractor,
    extractor_hash: the feature network. sampling_seconds_per_clip: of the clips that were scored.
    """

    metric: str
    stage: str
    unit: str
    lower_is_better: bool | None
    extractor: str | None = None
    extractor_hash: str | None = None
    sampling_seconds_per_clip: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As a record holds it, without unknown values (None), except the direction."""
        return to_json(self)

    @classmethod
    def from_json(cls, entries: Any) -> Score:
        """Undo `to_json`. Raises ValueError, one line, for a score that lacks something, or holds what none has."""
        return from_json(cls, entries, f"score {entries.get('metric')!r}" if isinstance(entries, Mapping) else "score")
