"""The inception score: how sure a classifier is of each clip, and how evenly it spreads over the classes."""

from __future__ import annotations

import numpy as np


def inception_score(probabilities: np.ndarray, splits: int = 10, shuffle_seed: int | None = 42) -> tuple[float, float]:
    """Return (mean, standard deviation with ddof 0) over the splits of exp E[KL(p(y|x) || p(y))], 1..K.

    probabilities (n, K), rows summing to 1. The rows are shuffled once by RandomState(shuffle_seed) (None:
    kept in order), then split i holds rows i*n//splits to (i+1)*n//splits. A probability of 0 adds 0 (its
    limit). Raises ValueError for fewer rows than splits, rows that are no probabilities, or values that are
    not finite. Source: Salimans et al. 2016, section 4 (arXiv:1606.03498); the shuffle as StyleGAN-V does it,
    https://github.com/universome/stylegan-v/blob/1f630af59d8f34a4a70417abc412c1c7c3b0d97c/src/metrics/inception_score.py
    """
    p = np.array(probabilities, dtype=np.float64)
    if p.ndim != 2:
        raise ValueError(f"probabilities: got {p.ndim} axes {p.shape}, wanted 2 (clips, classes)")
    n = len(p)
    if splits < 1 or n < splits:
        raise ValueError(f"inception score: got {n} clips for {splits} splits, wanted at least one clip a split")
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
        ratio = np.divide(part, part.mean(axis=0), out=np.ones_like(part), where=part > 0)
        scores.append(np.exp(np.mean(np.sum(part * np.log(ratio), axis=1))))
    return float(np.mean(scores)), float(np.std(scores))
