"""Stored arrays of the clips -> scores under a protocol: the one function that run, evaluate and audit score with.

Numpy only, no network: what recomputes a table from stored features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lavita.config.protocol import Protocol
from lavita.metrics.measures import Side
from lavita.metrics.table import METRICS, MetricRow, NetworkId, metric_key
from lavita.results.scores import Score

Arrays = Mapping[str, np.ndarray]


def networks_of(protocol: Protocol, frame_encoder: Mapping[str, str] | None = None) -> dict[str, NetworkId]:
    """The feature networks that a protocol names, by the array that they give. frame_encoder: name and weights_hash of
    the network of fid, which no protocol names.
    """
    found = {
        "features": NetworkId(protocol.extractor, protocol.extractor_hash),
        "probabilities": NetworkId(protocol.is_extractor, protocol.is_extractor_hash),
    }
    if frame_encoder is not None:
        found["frame_features"] = NetworkId(frame_encoder["name"], frame_encoder["weights_hash"])
    return found


def scores_of(
    protocol: Protocol,
    sides: Mapping[str, Arrays],
    networks: Mapping[str, NetworkId],
    stage: str = "generated",
    real_alone: bool = False,
) -> list[Score]:
    """The score of every metric of the table that the arrays allow, in the table's order.

    sides: real, generated, train, heldout, reconstruction, as far as they are there, each with features float32 (n, d),
    probabilities float32 (n, K), frame_features float32 (n, F, d) and names (n,). networks: by array, see
    `networks_of`. stage: that of the scores. real_alone: metrics of one side are also taken of the real clips, under
    the stage real. Raises ValueError for another number of clips than the protocol's, and for features that are not
    finite, naming the clip.
    """
    check_counts(protocol, sides)
    found = []
    for row in METRICS.values():
        if row.compute is None:
            continue
        if all(row.array in sides.get(side, {}) for side in row.sides):
            found.append(score(protocol, row, [(side, sides[side]) for side in row.sides], networks, stage))
        if real_alone and row.sides == ("generated",) and row.array in sides.get("real", {}):
            found.append(score(protocol, row, [("real", sides["real"])], networks, "real"))
    return found


def score(
    protocol: Protocol, row: MetricRow, sides: list[tuple[str, Arrays]], networks: Mapping[str, NetworkId], stage: str
) -> Score:
    """One metric of some sides (kind, arrays), in the order of the row's."""
    measured = row.compute(protocol, *(Side.of(arrays[row.array], arrays.get("names"), kind) for kind, arrays in sides))
    if row.array not in networks:
        raise ValueError(f"{row.name}: got {row.array}, but no network that made them; name it")
    network = networks[row.array]
    return Score(
        **vars(measured),
        metric=metric_key(row, clips_of(protocol, row), protocol.frames, network),
        stage=stage,
        unit=row.unit,
        lower_is_better=row.lower_is_better,
        extractor=network.name,
        extractor_hash=network.weights_hash,
    )


def clips_of(protocol: Protocol, row: MetricRow) -> int:
    """The number of clips that a metric's key says."""
    return protocol.n_real if "reconstruction" in row.sides else protocol.n_generated


def metric_names(protocol: Protocol, networks: Mapping[str, NetworkId]) -> dict[str, str]:
    """The keys, by short name, of all metrics of generated clips that the networks allow."""
    return {
        row.name: metric_key(row, clips_of(protocol, row), protocol.frames, networks[row.array])
        for row in METRICS.values()
        if "generated" in row.sides and row.array in networks
    }


def check_counts(protocol: Protocol, sides: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError where there are more or fewer clips than the protocol scores: the keys say its numbers."""
    wanted = {"real": protocol.n_real, "generated": protocol.n_generated, "reconstruction": protocol.n_real}
    for side, n in wanted.items():
        for array, rows in sides.get(side, {}).items():
            if len(rows) != n:
                raise ValueError(
                    f"{side} clips: got {array} of {len(rows)}, protocol {protocol.name} scores {n}; give exactly {n}"
                )
