"""How sure a score is: intervals, values in the limit of infinite samples (FVD-infinity), comparisons of two rows,
spread over seeds.

`resampling` says what random halves of the clips tell of a score's bias and variance, `distance_ends` how the ends of
a distance's interval follow. Coverage is measured in docs/scoring.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavita.metrics.resampling import LEAST_CLIPS, Resampled, ScoreOfSubsets, distance_ends, resample
from lavita.results.scores import Measurement

LEVEL = 0.95
BETTER, WORSE, NOT_SIGNIFICANT = "better", "worse", "not significantly different"
__all__ = [
    "BETTER", "LEAST_CLIPS", "LEVEL", "NOT_SIGNIFICANT", "WORSE", "Comparison", "Interval", "Resampled",
    "ScoreOfSubsets",
    "SeedSpread", "compare", "compare_intervals", "interval", "resample", "seed_spread", "student_quantile",
    "verdict", "with_interval",
]  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """value: the score of all clips, biased by their number; extrapolated: in the limit of infinite samples, by the
    line in 1/n; low, high: the interval of extrapolated; parabola: through n, n/2 and n/4 instead of the line;
    mean_at: mean score at these three counts of generated clips; remark: what a reader must know, or "".
    """

    value: float
    extrapolated: float
    low: float
    high: float
    parabola: float
    mean_at: dict[int, float]
    level: float
    kind: str
    remark: str

    def of_value(self) -> tuple[float, float]:
        """The interval of the score's mean over other samples of equally many clips: the same, moved by the bias."""
        moved = self.value - self.extrapolated
        return self.low + moved, self.high + moved


def interval(resampled: Resampled, is_distance: bool = True, level: float = LEVEL) -> Interval:
    """The interval of a score in the limit of infinite samples.

    is_distance: the score's limit is 0 for equal distributions and else above, see `distance_ends`. For any other
    score the ends are extrapolated -+ t V^(1/2).
    """
    gaps, t = resampled.gaps(), quantile(resampled, level)
    extrapolated = resampled.value + float(gaps.mean())
    if is_distance:
        low, high = distance_ends(resampled, t)
    else:
        half = t * math.sqrt(variance(gaps, resampled.sways()))
        low, high = extrapolated - half, extrapolated + half
    n, (x2, x4) = resampled.num_generated, (2.0, 4.0)
    means = (resampled.value, float(resampled.halves.mean()), float(resampled.quarters.mean()))
    parabola = means[0] * x2 * x4 / ((x2 - 1) * (x4 - 1)) - means[1] * x4 / ((x2 - 1) * (x4 - x2))
    parabola += means[2] * x2 / ((x4 - 1) * (x4 - x2))
    remark = ""
    if abs(parabola - extrapolated) > (high - low) / 2:
        remark = (
            f"not linear in 1/n at this size: a parabola through n, n/2 and n/4 gives {parabola:.4g}, the line "
            f"{extrapolated:.4g}; these features need more clips to be extrapolated"
        )
    return Interval(
        resampled.value,
        extrapolated,
        low,
        high,
        parabola,
        dict(zip((n, n // 2, n // 4), means, strict=True)),
        level,
        f"{100 * level:g} % of the value in the limit of infinite samples, {len(gaps)} random halvings",
        remark,
    )


def quantile(resampled: Resampled, level: float) -> float:
    """Student's t. The degrees of freedom are those of the halvings or of the variance found from the clips, whichever
    are fewer: a quarter of the clips, as single clips act on a distance by squares of normal variables or so, whose
    kurtosis is far above that of normal ones.
    """
    clips = min(n for n in (resampled.num_real, resampled.num_generated) if n)
    return student_quantile((1 + level) / 2, max(1, min(len(resampled.halves), clips // 4)))


def student_quantile(probability: float, freedom: int) -> float:
    """The value that a variable of Student's t distribution stays below with a probability."""
    from scipy.special import stdtrit  # a moment, which a table without intervals need not take

    return float(stdtrit(freedom, probability))


def variance(gaps: np.ndarray, sways: np.ndarray) -> float:
    """Variance of an extrapolated score, l + v: mean G^2 less the variance of D, at least v itself, and the part that
    comes from having so few halvings.
    """
    v = float(gaps.var(ddof=1))
    return max(float(np.mean(sways**2)) - v, v) + v / len(gaps)


@dataclass(frozen=True)
class Comparison:
    """difference: one's extrapolated score less the other's, with its interval; verdict: one is `better`, `worse`, or
    `not significantly different` from the other.
    """

    difference: float
    low: float
    high: float
    verdict: str
    kind: str


def compare(one: Resampled, other: Resampled, lower_is_better: bool = True, level: float = LEVEL) -> Comparison:
    """Compare two methods' scores made against the same real clips: the interval of the paired difference.

    Both were cut alike, so what a choice of real clips adds to both cancels, and so does what equal sampling seeds
    add. Raises ValueError where they were not cut alike or the real clips or the score differ.
    """
    for name in ("key", "seed", "num_real", "num_generated"):
        if getattr(one, name) != getattr(other, name):
            raise ValueError(
                f"compare: {name} is {getattr(one, name)} and {getattr(other, name)}; resample both with one seed, "
                "against the same real clips, from equally many generated clips"
            )
    if len(one.halves) != len(other.halves):
        raise ValueError(f"compare: {len(one.halves)} and {len(other.halves)} halvings; resample both equally often")
    gaps, sways = one.gaps() - other.gaps(), one.sways() - other.sways()
    difference = float(one.value - other.value + gaps.mean())
    half = quantile(one, level) * math.sqrt(variance(gaps, sways))
    low, high = difference - half, difference + half
    kind = f"{100 * level:g} % of the paired difference, {len(gaps)} random halvings"
    return Comparison(difference, low, high, verdict(low, high, lower_is_better), kind)


def compare_intervals(one: Interval, other: Interval, lower_is_better: bool = True) -> Comparison:
    """Compare two rows of which only the intervals are known, as if they were independent.

    Rows that share their real clips share a part of their spread, which this can't take out: `compare` tells more
    apart. Source: Zou & Donner 2008, Statistics in Medicine 27 (intervals need not be symmetric).
    """
    if one.level != other.level:
        raise ValueError(f"compare: intervals of {one.level:g} and {other.level:g}; make both at one level")
    difference = one.extrapolated - other.extrapolated
    low = difference - math.hypot(one.extrapolated - one.low, other.high - other.extrapolated)
    high = difference + math.hypot(one.high - one.extrapolated, other.extrapolated - other.low)
    kind = f"{100 * one.level:g} % of the difference, rows taken as independent"
    return Comparison(difference, low, high, verdict(low, high, lower_is_better), kind)


def verdict(low: float, high: float, lower_is_better: bool) -> str:
    """What the interval of a difference says of its first member."""
    if low <= 0 <= high:
        return NOT_SIGNIFICANT
    return BETTER if (high < 0) == lower_is_better else WORSE


@dataclass(frozen=True)
class SeedSpread:
    """Mean over training seeds, standard deviation (ddof 1) and Student interval of the mean."""

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int
    kind: str


def seed_spread(values: Sequence[float], level: float = LEVEL) -> SeedSpread:
    """The spread of one score over training seeds. Raises ValueError for one seed: its spread is unknown."""
    if len(values) < 2:
        raise ValueError(f"seed spread: got {len(values)} training seed, wanted at least 2")
    mean, deviation, count = float(np.mean(values)), float(np.std(values, ddof=1)), len(values)
    half = student_quantile((1 + level) / 2, count - 1) * deviation / math.sqrt(count)
    kind = f"{100 * level:g} % of the mean over {count} training seeds, Student's t"
    return SeedSpread(mean, deviation, mean - half, mean + half, count, kind)


def with_interval(score: ScoreOfSubsets, value: float, is_distance: bool = True) -> Measurement:
    """A value with its interval at its own number of clips, and in the limit of infinite samples, which another number
    of clips can be compared with; without them for too few clips to be cut in parts.

    value: as the protocol computes it; the interval is laid around it.
    """
    if score.num_generated < LEAST_CLIPS or 0 < score.num_real < LEAST_CLIPS:
        return Measurement(value=value)
    found = interval(resample(score), is_distance)
    low, high = (value + (end - found.value) for end in found.of_value())
    return Measurement(
        value=value,
        ci_low=low,
        ci_high=high,
        ci_kind=f"{100 * found.level:g} %, other samples of as many clips, from random halves without replacement",
        extrapolated=found.extrapolated,
        extrapolated_low=found.low,
        extrapolated_high=found.high,
        interval_remark=found.remark or None,
    )
