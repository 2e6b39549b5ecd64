"""Scores of parts of a set of clips, from what is computed once for the whole set: what intervals are made of.

Each class answers `whole()`, the score of all clips, and `parts(real, generated, turns)`, the scores of the parts of
one partition of the real and of the generated clips, given as index arrays that together hold every clip once. The
generated parts are turned by 0, 1, ... turns - 1 places against the real ones: a list a turn, of a score a part.
`num_real` and `num_generated` count the clips; `key` is equal only for equal real clips scored in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from lavita.score.distance import (
    Moments,
    check_pair,
    frechet_distance,
    frechet_of_moments,
    frechet_of_rows,
    kernel,
    kernel_diagonal,
    kernel_distance,
)
from lavita.score.inception import inception_score

# Of a part's distance. The spread that parts are drawn for is known to some per cent.
ACCEPTED_ERROR = 1e-6
KERNEL_CLIPS = 5000  # of a set whose kernel matrix is kept, 200 MB; of larger sets it is made again for each part
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

    def parts(self, real: Parts, generated: Parts, turns: int = 1) -> list[list[float]]:
        """The distance of each part of the real clips to a part of the generated ones, turn by turn."""
        moments = None
        if min(map(len, [*real, *generated])) > len(self.real.mean):
            moments = self.real.moments(real), self.generated.moments(generated)

        def distance(i: int, j: int) -> float:
            if moments is not None:
                value, error = frechet_of_moments(moments[0][i], moments[1][j])
                if error <= ACCEPTED_ERROR * value:
                    return value
            return self.of_rows(real[i], generated[j])

        return [[distance(i, (i + turn) % len(real)) for i in range(len(real))] for turn in range(turns)]

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

    def parts(self, real: Parts, generated: Parts, turns: int = 1) -> list[list[float]]:
        """The distance of each part of the real clips to a part of the generated ones, turn by turn."""
        x, y = self.features
        pairs = [[(i, (i + turn) % len(real)) for i in range(len(real))] for turn in range(turns)]
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

    def parts(self, real: Parts, generated: Parts, turns: int = 1) -> list[list[float]]:
        """The score of each part of the generated clips, in as many splits; the same in each turn."""
        return [[inception_score(self.probabilities[j], self.splits, self.shuffle_seed)[0] for j in generated]] * turns
