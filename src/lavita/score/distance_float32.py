"""The Frechet distance as the older PyTorch code of the field computes it: float32, roots by SVD. For its protocols."""

from __future__ import annotations

import numpy as np

from lavita.score.distance import check_features

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
