"""Distances between two sets of feature vectors: Frechet (two Gaussians) and kernel (unbiased MMD^2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EPSILON = 2.0**-52
# A distance from covariances whose error estimate exceeds this part of it is computed from the features instead.
ACCEPTED_ERROR = 1e-8
LARGEST_MEAN = 16.0  # squared, in variances, of features that are not centred before their products are summed
KERNEL_ENTRIES = 2**22  # of a kernel matrix held at once, 32 MiB


def check_features(features: np.ndarray, name: str, minimum: int = 2, names: Sequence[str] | None = None) -> np.ndarray:
    """Return features as contiguous float64 (n, d).

    names: the clips' names, one per row, for messages. Raises ValueError for a wrong number of axes, fewer than
    `minimum` clips (says how many are missing), or a value that is not finite (names the first such clip, by its
    index where it has no name).
    """
    array = np.ascontiguousarray(features, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name} features: got {array.ndim} axes {array.shape}, wanted 2 (clips, features)")
    if len(array) < minimum:
        raise ValueError(
            f"{name} features: got {len(array)} clips, wanted at least {minimum}; {minimum - len(array)} missing"
        )
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        clip = bad[0] if names is None else names[bad[0]]
        raise ValueError(
            f"{name} features: clip {clip} has a value that is not finite ({len(bad)} of {len(array)} "
            "clips do); look at that clip or score without it"
        )
    return array


def check_pair(real: np.ndarray, generated: np.ndarray, minimum: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as `check_features` returns them. Raises ValueError as it does, and for unequal widths."""
    x, y = check_features(real, "real", minimum), check_features(generated, "generated", minimum)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features: real are {x.shape[1]} wide, generated {y.shape[1]}; use one extractor for both")
    return x, y


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d) of features, float64.

    rounding: how many times the rounding error of a covariance of centred features this one may have.
    """

    mean: np.ndarray
    covariance: np.ndarray
    rounding: float = 1.0

    @classmethod
    def of(cls, features: np.ndarray, ddof: int = 0) -> Moments:
        """Moments of float64 features (n, d); the covariance is divided by n - ddof.

        Features are centred first where means are large, as a sample of the clips tells. Elsewhere the mean of products
        less the product of means, which saves a copy, does: see `mean_in_variances` for what that costs.
        """
        n, mean = len(features), features.mean(axis=0)
        if mean_in_variances(mean, features[:: max(1, n // 128)].var(axis=0)) > LARGEST_MEAN:
            centred = features - mean
            return cls(mean, centred.T @ centred / (n - ddof))
        products = features.T @ features
        products -= np.outer(n * mean, mean)
        products /= n - ddof
        return cls(mean, products, 1.0 + mean_in_variances(mean, np.diag(products)))


def mean_in_variances(mean: np.ndarray, variance: np.ndarray) -> float:
    """How many times as large as epsilon S the error of S is at most for means that were not subtracted first.

    It is epsilon mean_i mean_j in S_ij: in units of (S_ii S_jj)^(1/2) at most max mean_i^2 / S_ii, and in units of the
    spectral norm |S|, which is at least max S_ii, at most |mean|^2 / max S_ii. The smaller one holds.
    """
    squares, largest = mean * mean, float(variance.max())
    each = float(np.max(squares / variance)) if variance.min() > 0 else np.inf
    return min(each, float(squares.sum()) / largest if largest > 0 else np.inf)


def frechet_distance(real: np.ndarray, generated: np.ndarray, ddof: int = 0) -> float:
    """Return the squared Frechet distance of two Gaussians fitted to features (n, d) and (m, d), float64.

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), in squared feature units, up to rounding at least 0, and
    the same bit for bit with the sets exchanged. No iterative matrix root; exact for singular covariances and for
    fewer clips than features: see `frechet_of_moments` and `frechet_of_rows`, which is taken wherever the former is
    not sure of eight digits. ddof 0 is what StyleGAN-V and Latte divide by, ddof 1 what PVDM, VideoGPT and LVDM do.
    Raises ValueError for too few clips, unequal widths, or a value that is not finite.
    Source: Dowson & Landau 1982, equation 4; Heusel et al. 2017, equation 6 (arXiv:1706.08500).
    """
    x, y = (np.ascontiguousarray(features, dtype=np.float64) for features in (real, generated))
    if x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1] < min(len(x), len(y)):
        # Not checked yet: a value that is not finite reaches the error, and a pass over the features is saved.
        with np.errstate(over="ignore", invalid="ignore"):
            value, error = frechet_of_moments(Moments.of(x, ddof), Moments.of(y, ddof))
        if error <= ACCEPTED_ERROR * value:
            return value
    return frechet_of_rows(*check_pair(x, y, max(2, ddof + 1)), ddof)


def frechet_of_rows(x: np.ndarray, y: np.ndarray, ddof: int = 0) -> float:
    """The squared Frechet distance by factors of the covariances that are never squared; x (n, d), y (m, d), float64.

    With S1 = R1^T R1 and S2 = R2^T R2, tr (S1 S2)^(1/2) is the sum of the singular values of R1 R2^T. Each comes out
    within a few epsilon times the largest, whatever the rank, so the error is about epsilon times (tr S1 + tr S2).
    """
    r1, r2 = covariance_factor(x, ddof), covariance_factor(y, ddof)
    parts = np.sum(r1 * r1), np.sum(r2 * r2)
    if parts[0] < parts[1]:  # one order of the two, so that exchanging them changes no bit
        r1, r2 = r2, r1
    shared = np.linalg.svd(r1 @ r2.T, compute_uv=False).sum()
    return float(np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + (parts[0] + parts[1]) - 2.0 * shared)


def covariance_factor(features: np.ndarray, ddof: int) -> np.ndarray:
    """Return R (min(n, d), d), float64, with R^T R the covariance of features (n, d) at this ddof.

    For n <= d the centred rows themselves; for n > d the triangular factor of their QR decomposition, which
    neither squares the condition number (as an eigen-decomposition of the covariance would) nor needs a rank.
    """
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - ddof)
    return centred if len(centred) <= centred.shape[1] else np.linalg.qr(centred, mode="r")


def frechet_of_moments(a: Moments, b: Moments) -> tuple[float, float]:
    """Return (squared Frechet distance, estimate of its error) from means and covariances alone.

    With S1 = L L^T the eigenvalues of M = L^T S2 L are those of S1 S2; their roots s_i are what
    `frechet_of_rows` finds as singular values, at less than half of the time. Squaring costs accuracy where S1 or S2
    is nearly singular, so the error is estimated from the result. To first order, for symmetric E,
        tr (M + E)^(1/2)            - tr M^(1/2) = tr (M^(-1/2) E) / 2           <= |E| / 2        sum 1 / s_i
        tr (L^T (S2 + E) L)^(1/2)   - tr M^(1/2) = tr (L M^(-1/2) L^T E) / 2     <= |E| |S1| / 2   sum 1 / s_i
    with spectral norms, and the latter for S1 with the roles exchanged. Rounding makes |E| some epsilon |S1| |S2| in
    M and some epsilon |S2| in S2. All parts have one form, so the estimate for the distance (twice the trace) is
        2 epsilon |S1| |S2| sum 1 / s_i
    times what the covariances say of their own rounding, and infinite where one is numerically singular. It assumes
    that errors hit the smallest s_i as hard as the largest. Graded matrices do much better if large entries stand
    first, hence `graded`: on 1500 pairs of sets with condition numbers up to 1e12 and means up to 30 standard
    deviations the error found was at most 0.1 of the estimate, and at most 2e-11 of the distance wherever the estimate
    was below 1e-8 of it.
    """
    without_cross = np.sum((a.mean - b.mean) ** 2) + (np.trace(a.covariance) + np.trace(b.covariance))
    if np.trace(a.covariance) < np.trace(b.covariance):  # one order of the two, as in frechet_of_rows
        a, b = b, a
    if not np.isfinite(without_cross):
        return float("nan"), float("inf")
    s1, s2 = graded(a.covariance, b.covariance)
    try:
        squares = np.linalg.eigvalsh(lower_product(s2, np.linalg.cholesky(s1)))
    except np.linalg.LinAlgError:
        return float("nan"), float("inf")
    if not squares[0] > 0:
        return float("nan"), float("inf")
    roots = np.sqrt(squares)
    error = (a.rounding + b.rounding) * EPSILON * spectral_norm(s1) * spectral_norm(s2) * np.sum(1 / roots)
    return float(without_cross - 2.0 * roots.sum()), float(error)


def graded(s1: np.ndarray, s2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both covariances (d, d) with the features in order of falling variance, if variances differ much at all."""
    size = np.diag(s1) * np.diag(s2)
    if size.max() <= 1e4 * size.min():
        return s1, s2
    order = np.argsort(-size, kind="stable")
    return s1.take(order, 0).take(order, 1), s2.take(order, 0).take(order, 1)


def lower_product(s: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The lower triangle of L^T S L, zeros above its blocks, for lower triangular L: 10 of the 16 block products."""
    half = len(s) // 2
    top, below, last = factor[:half, :half], factor[half:, :half], factor[half:, half:]
    product = np.zeros_like(s)
    left = s[:, :half] @ top + s[:, half:] @ below
    product[:half, :half] = top.T @ left[:half] + below.T @ left[half:]
    product[half:, :half] = last.T @ left[half:]
    product[half:, half:] = last.T @ (s[half:, half:] @ last)
    return product


def spectral_norm(s: np.ndarray, steps: int = 2) -> float:
    """The largest eigenvalue of a covariance (d, d), from below: power iteration from its longest column."""
    vector = s[int(np.argmax(np.diag(s)))]
    for _ in range(steps):
        vector = s @ (vector / np.linalg.norm(vector))
    return float(np.linalg.norm(vector))


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the unbiased estimate of MMD^2 between features (n, d) and (m, d), float64; it may be negative.

    Kernel (x . y / d + 1)^3; the terms of a clip with itself are left out, so the expected value is 0 for two
    samples of one distribution, whatever their size. Some rows of the kernel matrices are held at a time. Raises
    ValueError as `frechet_distance` does. Source: Binkowski et al. 2018, section 4 and equation 4 (arXiv:1801.01401).
    """
    x, y = check_pair(real, generated)
    n, m = len(x), len(y)
    same_x = (kernel_sum(x, x) - kernel_diagonal(x).sum()) / (n * (n - 1))
    same_y = (kernel_sum(y, y) - kernel_diagonal(y).sum()) / (m * (m - 1))
    return float(same_x + same_y - 2 * kernel_sum(x, y) / (n * m))


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The cubic kernel of rows (n, d) and (m, d): (n, m)."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base


def kernel_diagonal(x: np.ndarray) -> np.ndarray:
    """The kernel of each row (n, d) with itself: (n,)."""
    return (np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3


def kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """The sum over the kernel matrix of rows (n, d) and (m, d)."""
    rows = max(1, KERNEL_ENTRIES // len(y))
    return float(sum(kernel(x[start : start + rows], y).sum() for start in range(0, len(x), rows)))


SMALLEST = 1e-10  # singular values below it are left as they are instead of being rooted


def frechet_distance_float32(real: np.ndarray, generated: np.ndarray, ddof: int = 1) -> float:
    """Return the squared Frechet distance of features (n, d) and (m, d) with every step rounded to float32.

    tr (S1 S2)^(1/2) is taken as the trace of the root of S1^(1/2) S2 S1^(1/2), both roots by SVD. It is inexact: equal
    sets are not at distance 0, and singular covariances lose digits. `distance.frechet_distance` is the exact form.
    Raises ValueError as that does.
    Source: frechet_distance of VideoGPT, used by DIGAN, PVDM, TATS and LVDM, e.g.
    https://github.com/sihyun-yu/PVDM/blob/793172f7acbe51036a9f2c62a6d2bd1b0a0c6d90/evals/fvd/fvd.py
    """
    sides = [
        check_features(features, name, max(2, ddof + 1)).astype(np.float32)
        for features, name in ((real, "real"), (generated, "generated"))
    ]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(
            f"features: real are {sides[0].shape[1]} wide, generated {sides[1].shape[1]}; use one extractor"
        )
    (mean_1, s1), (mean_2, s2) = ((rows.mean(axis=0), covariance(rows, ddof)) for rows in sides)
    root = square_root(s1)
    shared = np.trace(square_root(root @ s2 @ root))
    return float(np.trace(s1 + s2) - 2 * shared + np.sum((mean_1 - mean_2) ** 2))


def covariance(rows: np.ndarray, ddof: int) -> np.ndarray:
    """float32 (d, d) of rows float32 (n, d)."""
    centred = rows - rows.mean(axis=0)
    return centred.T @ centred / np.float32(len(rows) - ddof)


def square_root(matrix: np.ndarray) -> np.ndarray:
    """The root of a symmetric matrix, float32 (d, d), by its SVD."""
    u, s, vt = np.linalg.svd(matrix)
    return (u * np.where(s < SMALLEST, s, np.sqrt(s))) @ vt


def inception_score(probabilities: np.ndarray, splits: int = 10, shuffle_seed: int | None = 42) -> tuple[float, float]:
    """Return (mean, standard deviation with ddof 0) over the splits of exp E[KL(p(y|x) || p(y))], 1..K.

    probabilities (n, K), rows summing to 1. The rows are shuffled once by RandomState(shuffle_seed) (None: kept in
    order), then split i holds rows i*n//splits to (i+1)*n//splits. A probability of 0 adds 0 (its limit). Raises
    ValueError for fewer rows than splits, rows that are no probabilities, or values that are not finite. Source:
    Salimans et al. 2016, section 4 (arXiv:1606.03498); the shuffle as StyleGAN-V does it,
    https://github.com/universome/stylegan-v/blob/1f630af59d8f34a4a70417abc412c1c7c3b0d97c/src/metrics/inception_score.py
    """
    p = np.array(probabilities, dtype=np.float64)
    if p.ndim != 2:
        raise ValueError(f"probabilities: got {p.ndim} axes {p.shape}, wanted 2 (clips, classes)")
    n = len(p)
    if splits < 1 or n < splits:
        raise ValueError(f"inception score: got {n} clips for {splits} splits, wanted at least one clip per split")
    bad = np.flatnonzero(~np.isfinite(p).all(axis=1))
    if len(bad):
        raise ValueError(f"probabilities: clip {bad[0]} has a value that is not finite")
    # float32 softmax rows sum to 1 within K * 6e-8; logits passed by mistake are off by far more.
    wrong = np.flatnonzero((p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > 1e-3))
    if len(wrong):
        raise ValueError(f"probabilities: row {wrong[0]} sums to {p[wrong[0]].sum():.4g}; apply a softmax first")
    if shuffle_seed is not None:
        np.random.RandomState(shuffle_seed).shuffle(p)
    scores = []
    for i in range(splits):
        part = p[i * n // splits : (i + 1) * n // splits]
        mean = part.mean(axis=0)  # rounds to 0 where the smallest positive numbers are averaged with zeros
        ratio = np.divide(part, mean, out=np.ones_like(part), where=(part > 0) & (mean > 0))
        scores.append(np.exp(np.mean(np.sum(part * np.log(ratio), axis=1))))
    return float(np.mean(scores)), float(np.std(scores))
