"""How sure a score is: intervals from random halves of the clips, values for infinitely many clips, comparisons.

Write a score of n clips as theta + sum L_i / n + sum Q_ij / n^2, with L_i of mean 0 and Q_ij of mean 0 for i != j; the
mean of Q_ii, b, makes the score biased by b / n. Cut the clips at random into halves A and B and form
    D = score(all) - (score(A) + score(B)) / 2      G = (score(A) - score(B)) / 2.
L cancels in D and, up to sign, each clip's effect in G is what it is in score(all). Over the random halvings
    mean of D = -b / n     variance of D = v, that of the part of score(all) that is due to Q_ij, i != j
    mean of G^2 = l + 2 v in expectation over the clips, with l the variance due to L,
because halves are drawn without replacement: the factor (1/m - 1/n) of a sample of m = n/2 out of n is exactly 1/n. So
    score(all) + mean D         is free of the bias: the line in 1/n through n and n/2 at 1/n = 0
    mean G^2 - variance of D    estimates its variance l + v, without the upward bias that a bootstrap has, whose
resampled sets have fewer distinct clips and thus lie further from everything.
Sources: Chong & Forsyth 2020 (arXiv:1911.07023) for the line in 1/n; Efron & Stein 1981 for why l + 2 v overstates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lavita.score.student import student_quantile

LEVEL = 0.95
BETTER, WORSE, NOT_APART = "better", "worse", "not told apart"
LEAST_CLIPS = 8  # quarters of two


class ScoreOfSubsets(Protocol):
    """See `lavita.score.subsets`."""

    num_real: int
    num_generated: int
    key: str

    def whole(self) -> float: ...

    def parts(
        self, real: Sequence[np.ndarray], generated: Sequence[np.ndarray], turns: int
    ) -> Sequence[Sequence[float]]: ...


@dataclass(frozen=True)
class Resampled:
    """A score and those of its halves (H, 2) and quarters (Q, 4), float64; equal seeds cut equal numbers of clips
    alike, whatever is scored, so two of them can be compared part by part.
    """

    value: float
    halves: np.ndarray
    quarters: np.ndarray
    num_real: int
    num_generated: int
    seed: int
    key: str

    def plain(self) -> dict[str, Any]:
        """As JSON takes it; `from_plain` undoes it."""
        return vars(self) | {"halves": self.halves.tolist(), "quarters": self.quarters.tolist()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Resampled:
        """Undo `plain`, to the last bit."""
        return cls(**values | {name: np.array(values[name]) for name in ("halves", "quarters")})

    def gaps(self) -> np.ndarray:
        """D of each halving, (H,)."""
        return self.value - self.halves.mean(axis=1)

    def sways(self) -> np.ndarray:
        """G of each halving, (H,)."""
        return (self.halves[:, 0] - self.halves[:, 1]) / 2


def resample(score: ScoreOfSubsets, resamples: int = 400, seed: int = 0) -> Resampled:
    """Score random halves of the clips, and some quarters to see whether the score is linear in 1/n.

    resamples counts scores of parts: nine tenths of them are of halves. Raises ValueError for fewer than 8 clips
    (says how many are missing) or fewer than 40 resamples.
    """
    if resamples < 40:
        raise ValueError(f"resamples: got {resamples}, wanted at least 40 for a spread to be known to a third")
    for name, n in (("real", score.num_real), ("generated", score.num_generated)):
        if n < LEAST_CLIPS and (n or name == "generated"):
            raise ValueError(f"interval: got {n} {name} clips, wanted {LEAST_CLIPS}; {LEAST_CLIPS - n} are missing")
    # Where there are real clips, each cut is used twice: real A with generated A, B with B; then A with B, B with A.
    turns = 2 if score.num_real else 1
    num_quarters = resamples // 40
    num_halves = (resamples - 4 * num_quarters) // (2 * turns)
    draws = [(np.random.default_rng((seed, k)), n) for k, n in enumerate((score.num_real, score.num_generated))]

    def scores(pieces: int, cuts: int, turns: int) -> np.ndarray:
        rows = []
        for _ in range(cuts):
            rows += score.parts(*(np.array_split(rng.permutation(n), pieces) for rng, n in draws), turns)
        return np.array(rows)

    halves, quarters = scores(2, num_halves, turns), scores(4, num_quarters, 1)
    return Resampled(score.whole(), halves, quarters, score.num_real, score.num_generated, seed, score.key)


@dataclass(frozen=True)
class Interval:
    """value: the score of all clips, biased by their number; extrapolated: to infinitely many clips, by the line in
    1/n; low, high: the interval of extrapolated; parabola: through n, n/2 and n/4 instead of the line; mean_at: mean
    score at these three numbers of generated clips; remark: what a reader must know, or "".
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
    """The interval of a score in the limit of infinitely many clips.

    is_distance: the score's limit is 0 for equal distributions and else above; the ends then solve
    (extrapolated - x)^2 = t^2 V(x), with V(x) the variance if x were the truth, as in Wilson's interval of a share,
    see `variance_slope`. For any other score, or a difference of scores, the ends are extrapolated -+ t V^(1/2).
    t is Student's with as many degrees of freedom as there are halvings.
    """
    gaps, count = resampled.gaps(), len(resampled.halves)
    extrapolated = resampled.value + float(gaps.mean())
    t = student_quantile((1 + level) / 2, count)
    if is_distance:
        least, slope = variance_slope(resampled)
        middle = extrapolated + t * t * slope / 2
        half = t * math.sqrt(max(0.0, slope * extrapolated + t * t * slope * slope / 4 + least))
    else:
        middle, half = extrapolated, t * math.sqrt(variance(resampled.gaps(), resampled.sways()))
    n, (x2, x4) = resampled.num_generated, (2.0, 4.0)
    means = (resampled.value, float(resampled.halves.mean()), float(resampled.quarters.mean()))
    parabola = means[0] * x2 * x4 / ((x2 - 1) * (x4 - 1)) - means[1] * x4 / ((x2 - 1) * (x4 - x2))
    parabola += means[2] * x2 / ((x4 - 1) * (x4 - x2))
    remark = ""
    if abs(parabola - extrapolated) > half:
        remark = (
            f"not linear in 1/n at this size: a parabola through n, n/2 and n/4 gives {parabola:.4g}, the line "
            f"{extrapolated:.4g}; these features need more clips to be extrapolated"
        )
    return Interval(
        resampled.value,
        extrapolated,
        middle - half,
        middle + half,
        parabola,
        dict(zip((n, n // 2, n // 4), means, strict=True)),
        level,
        f"{100 * level:g} % of the value at infinitely many clips, {count} random halvings",
        remark,
    )


def variance(gaps: np.ndarray, sways: np.ndarray) -> float:
    """Variance of an extrapolated score, l + v: mean G^2 less the variance of D, at least v itself, and the part that
    comes from having so few halvings.
    """
    v = float(gaps.var(ddof=1))
    return max(float(np.mean(sways**2)) - v, v) + v / len(gaps)


def variance_slope(resampled: Resampled) -> tuple[float, float]:
    """(v, s) of V(x) = v + s x: variance of an extrapolated distance whose truth is x.

    A distance near 0 behaves as a sum of squares w_k (a_k + noise)^2: its truth is sum w_k a_k^2 and the variance due
    to L is proportional to it, so s = l / extrapolated, and at x = 0 only v is left. An estimate of l from few clips
    may by chance be near 0 together with the distance, so s is at least half of what it is for a_k^2 in the
    proportions of the noise, 2 v / (b / n); that matters only where l is not large against v.
    Coverage: docs/scoring.md, measured.
    """
    gaps = resampled.gaps()
    v = float(gaps.var(ddof=1)) * (1 + 1 / len(gaps))
    linear = max(float(np.mean(resampled.sways() ** 2)) - 2 * v, 0.0)
    if v == 0.0:  # identical sets: every part scores the same
        return 0.0, 0.0
    extrapolated, bias = resampled.value + float(gaps.mean()), abs(float(gaps.mean()))
    slope = linear / max(extrapolated, math.sqrt(v))
    return v, max(slope, v / bias * v / (v + linear) if bias else 0.0)


@dataclass(frozen=True)
class Comparison:
    """difference: one's extrapolated score less the other's, with its interval; verdict: one is `better`, `worse`, or
    `not told apart` from the other.
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
    half = student_quantile((1 + level) / 2, len(gaps)) * math.sqrt(variance(gaps, sways))
    low, high = difference - half, difference + half
    kind = f"{100 * level:g} % of the paired difference, {len(gaps)} random halvings"
    return Comparison(difference, low, high, verdict(low, high, lower_is_better), kind)


def compare_intervals(one: Interval, other: Interval, lower_is_better: bool = True) -> Comparison:
    """Compare two rows of which only the intervals are known, as if they were independent.

    Rows that share their real clips share a part of their spread, which this can't take out: `compare` tells more
    apart. Source: Zou & Donner 2008, Statistics in Medicine 27, equation 7 (intervals need not be symmetric).
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
        return NOT_APART
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
