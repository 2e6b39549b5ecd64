"""What each metric measures, from stored arrays of the clips: a number, its interval, details. Numpy only.

A function here takes the protocol and one `Side` for each side that its row of `lavita.metrics.table` names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lavita.config.protocol import Protocol
from lavita.metrics.confidence import with_interval
from lavita.metrics.distances import (
    check_features,
    frechet_distance,
    frechet_distance_float32,
    inception_score,
    kernel_distance,
)
from lavita.metrics.memorization import memorization
from lavita.metrics.resampling import FrechetOfSubsets, KernelOfSubsets
from lavita.results.scores import Measurement, NearestClip

CLOSEST = 5  # generated clips whose nearest training clips are named


@dataclass(frozen=True)
class Side:
    """The clips of one side. rows: float64 (n, d), or (n, F, d) for features of frames; names: n, of the clips."""

    rows: np.ndarray
    names: list[str]

    @classmethod
    def of(cls, array: np.ndarray, names: np.ndarray | None, kind: str) -> Side:
        """From a stored array (n, ...). kind: of the side, for messages. Raises ValueError naming a clip whose values
        are not finite.
        """
        known = [str(index) for index in range(len(array))] if names is None else [str(name) for name in names]
        rows = check_features(array.reshape(len(array), math.prod(array.shape[1:])), kind, 1, known)
        return cls(rows.reshape(array.shape), known)


def frechet(real: np.ndarray, generated: np.ndarray, ddof: int, precision: str) -> float:
    """The squared Frechet distance of features (n, d) and (m, d), computed as a protocol's `precision` says."""
    compute = frechet_distance_float32 if precision == "float32-svd" else frechet_distance
    return compute(real, generated, ddof)


def fvd(protocol: Protocol, real: Side, generated: Side) -> Measurement:
    """The Frechet distance, with its interval over other samples of as many clips."""
    value = frechet(real.rows, generated.rows, protocol.ddof, protocol.precision)
    return with_interval(FrechetOfSubsets(real.rows, generated.rows, protocol.ddof), value)


def fvd_of_split(protocol: Protocol, real: Side, generated: Side) -> Measurement:
    """The Frechet distance to the real clips of a split, as many as there are."""
    value = frechet(real.rows, generated.rows, protocol.ddof, protocol.precision)
    return Measurement(value=value, n_real=len(real.rows))


def fvd_of_reconstruction(protocol: Protocol, real: Side, reconstruction: Side) -> Measurement:
    """The Frechet distance of real clips and the same clips after an autoencoder."""
    return Measurement(value=frechet(real.rows, reconstruction.rows, protocol.ddof, protocol.precision))


def kvd(protocol: Protocol, real: Side, generated: Side) -> Measurement:
    """The unbiased kernel distance, with its interval."""
    return with_interval(KernelOfSubsets(real.rows, generated.rows), kernel_distance(real.rows, generated.rows))


def fid(protocol: Protocol, real: Side, generated: Side) -> Measurement:
    """The Frechet distance of features of single frames, all frames of all clips."""
    frames = (side.rows.reshape(-1, side.rows.shape[-1]) for side in (real, generated))
    return Measurement(value=frechet_distance(*frames, protocol.ddof))


def inception(protocol: Protocol, clips: Side) -> Measurement:
    """The inception score of class probabilities: the mean over the splits, with their spread."""
    splits = min(protocol.is_splits, len(clips.rows))
    mean, deviation = inception_score(clips.rows, splits, protocol.is_shuffle_seed)
    if splits == 1:
        return Measurement(value=mean)
    kind = f"mean +- std over {splits} splits"
    return Measurement(value=mean, ci_low=mean - deviation, ci_high=mean + deviation, ci_kind=kind)


def memorization_ratio(protocol: Protocol, train: Side, heldout: Side, generated: Side) -> Measurement:
    """The median memorization ratio, the number of copies, and the training clips that were come nearest to."""
    found = memorization(generated.rows, train.rows, heldout.rows, train.names)
    closest = tuple(NearestClip(*one) for one in found.closest(CLOSEST))
    return Measurement(value=found.ratio, n_real=len(train.rows), copies=len(found.copies), closest=closest)
