"""Distances between two sets of feature vectors: Frechet (two Gaussians) and kernel (unbiased MMD^2)."""

from __future__ import annotations

import numpy as np


def check_features(features: np.ndarray, name: str, minimum: int = 2) -> np.ndarray:
    """Return features as contiguous float64 (n, d).

    Raises ValueError for a wrong number of axes, fewer than `minimum` clips (says how many are missing), or a
    value that is not finite (names the first such clip by its index).
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
        raise ValueError(
            f"{name} features: clip {bad[0]} has a value that is not finite ({len(bad)} of {len(array)} "
            "clips do); look at that clip or score without it"
        )
    return array


def covariance_factor(features: np.ndarray, ddof: int) -> np.ndarray:
    """Return R (min(n, d), d), float64, with R^T R the covariance of features (n, d) at this ddof.

    For n <= d the centred rows themselves; for n > d the triangular factor of their QR decomposition, which
    neither squares the condition number (as an eigen-decomposition of the covariance would) nor needs a rank.
    """
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - ddof)
    return centred if len(centred) <= centred.shape[1] else np.linalg.qr(centred, mode="r")


def frechet_distance(real: np.ndarray, generated: np.ndarray, ddof: int = 0) -> float:
    """Return the squared Frechet distance of two Gaussians fitted to features (n, d) and (m, d), float64.

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), in squared feature units, up to rounding at least 0.
    With S1 = R1^T R1 and S2 = R2^T R2 the last trace is the sum of the singular values of R1 R2^T: no
    iterative matrix root, exact for singular covariances and for fewer clips than features. ddof 0 is what
    StyleGAN-V and Latte divide by, ddof 1 what PVDM, VideoGPT and LVDM do.
    Raises ValueError for too few clips, unequal widths, or a value that is not finite.
    Source: Dowson & Landau 1982, equation 4; Heusel et al. 2017, equation 6 (arXiv:1706.08500).
    """
    x = check_features(real, "real", max(2, ddof + 1))
    y = check_features(generated, "generated", max(2, ddof + 1))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features: real are {x.shape[1]} wide, generated {y.shape[1]}; use one extractor for both")
    r1, r2 = covariance_factor(x, ddof), covariance_factor(y, ddof)
    shared = np.linalg.svd(r1 @ r2.T, compute_uv=False).sum()
    spread = np.sum(r1 * r1) + np.sum(r2 * r2)
    return float(np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + spread - 2.0 * shared)


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the unbiased estimate of MMD^2 between features (n, d) and (m, d), float64; it may be negative.

    Kernel (x . y / d + 1)^3; the terms of a clip with itself are left out, so the expected value is 0 for two
    samples of one distribution, whatever their size. Raises ValueError as `frechet_distance` does.
    Source: Binkowski et al. 2018, section 4 and equation 4 (arXiv:1801.01401).
    """
    x, y = check_features(real, "real"), check_features(generated, "generated")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features: real are {x.shape[1]} wide, generated {y.shape[1]}; use one extractor for both")
    n, m, width = len(x), len(y), x.shape[1]
    within_x, within_y, between = ((a @ b.T / width + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    same_x = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    same_y = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(same_x + same_y - 2 * between.mean())
