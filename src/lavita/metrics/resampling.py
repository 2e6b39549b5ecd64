"""Scores of random halves and quarters of the clips: what an interval is made of, and what it says of a score's errors.

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

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lavita.metrics.distances import (
    Moments,
    check_pair,
    frechet_distance,
    frechet_of_moments,
    frechet_of_rows,
    inception_score,
    kernel,
    kernel_diagonal,
    kernel_distance,
)

LEAST_CLIPS = 8  # quarters of two
FEWEST_CLIPS = 4  # halves of two: fewer give no interval at all


class ScoreOfSubsets(Protocol):
    """See `lavita.metrics.resampling`."""

    num_real: int
    num_generated: int
    key: str

    def whole(self) -> float: ...

    def parts(
        self, real: Sequence[np.ndarray], generated: Sequence[np.ndarray], pairings: int
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
    pairings = 2 if score.num_real else 1
    num_quarters = resamples // 40
    num_halves = (resamples - 4 * num_quarters) // (2 * pairings)
    draws = [(np.random.default_rng((seed, k)), n) for k, n in enumerate((score.num_real, score.num_generated))]

    def scores(pieces: int, cuts: int, pairings: int) -> np.ndarray:
        rows = []
        for _ in range(cuts):
            rows += score.parts(*(np.array_split(rng.permutation(n), pieces) for rng, n in draws), pairings)
        return np.array(rows)

    halves, quarters = scores(2, num_halves, pairings), scores(4, num_quarters, 1)
    return Resampled(score.whole(), halves, quarters, score.num_real, score.num_generated, seed, score.key)


BISECTIONS = 60


def distance_ends(resampled: Resampled, t: float) -> tuple[float, float]:
    """(low, high) of an extrapolated distance; t: how many standard deviations an end is away if all were normal."""
    x, v, bias = extrapolated(resampled), quadratic_variance(resampled), noise_bias(resampled)
    if v == 0:  # every part scores the same
        return x, x
    slope = variance_slope(resampled)
    high = crossing(x, v, slope, t)[1]
    skewed = chi_squared_factor(2 * bias**2 / v, t)
    low, last = crossing(x, v, slope, skewed)[0], crossing(x, v, slope, t)[0]
    if low <= 0:
        return low, high
    for _ in range(BISECTIONS):
        middle = (low + last) / 2
        share = v / (v + slope * middle)  # of the variance, that of a truth of 0
        # The skewness of a non-central chi-squared variable, in units of the central one's.
        left = 1.5 * math.sqrt(share) - 0.5 * share**1.5
        far = x - middle > (t + (skewed - t) * left) * math.sqrt(v + slope * middle)
        low, last = (middle, last) if far else (low, middle)
    return low, high


def extrapolated(resampled: Resampled) -> float:
    """x: the distance of all clips less its bias."""
    return resampled.value + float(resampled.gaps().mean())


def quadratic_variance(resampled: Resampled) -> float:
    """v, and what having so few halvings adds to it."""
    gaps = resampled.gaps()
    return float(gaps.var(ddof=1)) * (1 + 1 / len(gaps))


def noise_bias(resampled: Resampled) -> float:
    """b/n = sum w_k, at least what v = 2 sum w_k^2 makes it: a kernel distance has this bias taken out."""
    return max(abs(float(resampled.gaps().mean())), math.sqrt(quadratic_variance(resampled) / 2))


def crossing(x: float, v: float, slope: float, t: float) -> tuple[float, float]:
    """The two y with (x - y)^2 = t^2 (v + slope y); where there are none, the y in their middle twice."""
    middle = x + t * t * slope / 2
    half = t * math.sqrt(max(0.0, slope * x + t * t * slope * slope / 4 + v))
    return middle - half, middle + half


def variance_slope(resampled: Resampled) -> float:
    """s of V(x) = v + s x: l / x as found.

    An estimate of l from few clips may by chance be near 0 together with the distance, so s is at least half of what it
    is for a_k^2 in the proportions of the noise, 2 v / (b / n); that matters only where l is not large against v.
    """
    v = quadratic_variance(resampled)
    linear = max(float(np.mean(resampled.sways() ** 2)) - 2 * v, 0.0)
    slope = linear / max(extrapolated(resampled), math.sqrt(v))
    return max(slope, v / noise_bias(resampled) * v / (v + linear))


def chi_squared_factor(freedom: float, t: float) -> float:
    """The value that a chi-squared variable exceeds as often as a normal one exceeds t, in standard deviations from
    the mean. t: below 38, where the probability becomes 0 in float64.
    """
    from scipy.special import chdtri, ndtr  # a moment, which a table without intervals need not take

    return float(chdtri(freedom, ndtr(-t)) - freedom) / math.sqrt(2 * freedom)


# Of a part's distance. The spread that parts are drawn for is known to some per cent.
ACCEPTED_ERROR = 1e-6
KERNEL_CLIPS = 5000  # of a set whose kernel matrix is kept, 200 MB; of larger sets it is recomputed for each part
Parts = Sequence[np.ndarray]


def key_of(*facts: object, rows: np.ndarray | None = None) -> str:
    """16 hex digits over facts and rows: scores with equal keys may be compared clip by clip."""
    digest = hashlib.sha256(repr(facts).encode())
    if rows is not None:
        digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()[:16]


class Sums:
    """A set of features and the moments of its parts; one part of each partition costs a subtraction only."""

    def __init__(self, features: np.ndarray, ddof: int) -> None:
        self.features, self.ddof = features, ddof
        self.mean = features.mean(axis=0)
        self.centred = features - self.mean
        self.products = self.centred.T @ self.centred

    def moments(self, parts: Parts) -> list[Moments]:
        """Moments of each part of a partition; the last one's sums are the whole's less those of the others."""
        found, total, products = [], np.zeros_like(self.mean), self.products.copy()
        for part in parts[:-1]:
            rows = self.centred[part]
            own_total, own_products = rows.sum(axis=0), rows.T @ rows
            total -= own_total
            products -= own_products
            found.append(self.from_sums(own_total, own_products, len(part), rounding=1.0))
        return [*found, self.from_sums(total, products, len(parts[-1]), rounding=float(len(parts)))]

    def from_sums(self, total: np.ndarray, products: np.ndarray, n: int, rounding: float) -> Moments:
        """Moments of n clips from the sums of their centred features and of the products of these."""
        return Moments(self.mean + total / n, (products - np.outer(total, total / n)) / (n - self.ddof), rounding)


class FrechetOfSubsets:
    """The squared Frechet distance of features (n, d) and (m, d) and of parts of them; see `frechet_distance`."""

    def __init__(self, real: np.ndarray, generated: np.ndarray, ddof: int = 0) -> None:
        x, y = check_pair(real, generated, 2 * (ddof + 1))
        self.num_real, self.num_generated, self.ddof = len(x), len(y), ddof
        self.key = key_of("frechet", ddof, rows=x)
        self.real, self.generated = Sums(x, ddof), Sums(y, ddof)

    def whole(self) -> float:
        """The distance of all clips."""
        return frechet_distance(self.real.features, self.generated.features, self.ddof)

    def parts(self, real: Parts, generated: Parts, pairings: int = 1) -> list[list[float]]:
        """The distance of each part of the real clips to a part of the generated ones, one pairing after the other."""
        moments = None
        if min(map(len, [*real, *generated])) > len(self.real.mean):
            moments = self.real.moments(real), self.generated.moments(generated)

        def distance(i: int, j: int) -> float:
            if moments is not None:
                value, error = frechet_of_moments(moments[0][i], moments[1][j])
                if error <= ACCEPTED_ERROR * value:
                    return value
            return self.of_rows(real[i], generated[j])

        return [[distance(i, (i + shift) % len(real)) for i in range(len(real))] for shift in range(pairings)]

    def of_rows(self, i: np.ndarray, j: np.ndarray) -> float:
        """The distance of some real clips to some generated ones."""
        return frechet_of_rows(self.real.features[i], self.generated.features[j], self.ddof)


class KernelOfSubsets:
    """The unbiased kernel distance of features (n, d) and (m, d) and of parts of them; see `kernel_distance`."""

    def __init__(self, real: np.ndarray, generated: np.ndarray) -> None:
        self.features = check_pair(real, generated, 4)
        self.num_real, self.num_generated = map(len, self.features)
        self.key = key_of("kernel", rows=self.features[0])
        self.matrices = None
        if max(self.num_real, self.num_generated) <= KERNEL_CLIPS:
            x, y = self.features
            self.matrices = kernel(x, x), kernel(y, y), kernel(x, y)
            self.diagonals = kernel_diagonal(x), kernel_diagonal(y)

    def whole(self) -> float:
        """The distance of all clips."""
        return kernel_distance(*self.features)

    def parts(self, real: Parts, generated: Parts, pairings: int = 1) -> list[list[float]]:
        """The distance of each part of the real clips to a part of the generated ones, one pairing after the other."""
        x, y = self.features
        pairs = [[(i, (i + shift) % len(real)) for i in range(len(real))] for shift in range(pairings)]
        if self.matrices is None:
            return [[kernel_distance(x[real[i]], y[generated[j]]) for i, j in row] for row in pairs]
        one, other = membership(real, len(x)), membership(generated, len(y))  # (k, n) and (k, m)
        n, m = one.sum(axis=1), other.sum(axis=1)
        sums = [
            np.einsum("kn,kn->k", inside @ matrix, inside)
            for inside, matrix in zip((one, other), self.matrices[:2], strict=True)
        ]
        same_x = (sums[0] - one @ self.diagonals[0]) / (n * (n - 1))
        same_y = (sums[1] - other @ self.diagonals[1]) / (m * (m - 1))
        between = one @ self.matrices[2] @ other.T / np.outer(n, m)  # (k, k)
        return [[float(same_x[i] + same_y[j] - 2 * between[i, j]) for i, j in row] for row in pairs]


def membership(parts: Parts, n: int) -> np.ndarray:
    """1.0 where a part holds a clip, (parts, n)."""
    inside = np.zeros((len(parts), n))
    for row, part in zip(inside, parts, strict=True):
        row[part] = 1.0
    return inside


class InceptionOfSubsets:
    """The inception score of class probabilities (n, K) and of parts of them; there are no real clips in it."""

    def __init__(self, probabilities: np.ndarray, splits: int = 10, shuffle_seed: int | None = 42) -> None:
        self.probabilities, self.splits, self.shuffle_seed = np.asarray(probabilities), splits, shuffle_seed
        self.num_real, self.num_generated = 0, len(probabilities)
        self.key = key_of("inception", splits, shuffle_seed)

    def whole(self) -> float:
        """The score of all clips: the mean over the splits."""
        return inception_score(self.probabilities, self.splits, self.shuffle_seed)[0]

    def parts(self, real: Parts, generated: Parts, pairings: int = 1) -> list[list[float]]:
        """The score of each part of the generated clips, in as many splits; the same for each pairing."""
        return [
            [inception_score(self.probabilities[j], self.splits, self.shuffle_seed)[0] for j in generated]
        ] * pairings
