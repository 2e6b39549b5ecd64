"""Scores of parts from what is kept of the whole set: those of the parts themselves."""

import numpy as np
import pytest

from lavita.metrics import resampling
from lavita.metrics.distances import frechet_distance, inception_score, kernel_distance
from lavita.metrics.resampling import FrechetOfSubsets, InceptionOfSubsets, KernelOfSubsets


def cut(n, pieces, seed):
    return np.array_split(np.random.default_rng(seed).permutation(n), pieces)


def sets(n, m, d, rank=None):
    rng = np.random.default_rng(n + m + d)
    mixing = rng.standard_normal((rank or d, d)) / np.sqrt(d)
    return 3 + rng.standard_normal((n, len(mixing))) @ mixing, 1.3 * rng.standard_normal((m, len(mixing))) @ mixing


# More clips than features in each part; fewer in each; fewer in some sets; features of less than full rank.
@pytest.mark.parametrize("n, m, d, rank", [(101, 90, 8, 8), (20, 21, 16, 16), (20, 90, 12, 12), (90, 80, 12, 5)])
@pytest.mark.parametrize("pieces", [2, 4])
@pytest.mark.parametrize("ddof", [0, 1])
def test_frechet_of_parts(n, m, d, rank, pieces, ddof):
    x, y = sets(n, m, d, rank)
    score, one, other = FrechetOfSubsets(x, y, ddof), cut(n, pieces, 0), cut(m, pieces, 1)
    straight = [frechet_distance(x[i], y[j], ddof) for i, j in zip(one, other, strict=True)]
    turned = [frechet_distance(x[i], y[j], ddof) for i, j in zip(one, [*other[1:], other[0]], strict=True)]
    found = score.parts(one, other, 2)
    # What is accepted is within 1e-6, far less in fact; see test_distance.
    assert found[0] == pytest.approx(straight, rel=1e-9) and found[1] == pytest.approx(turned, rel=1e-9)
    assert score.parts(one, other) == found[:1]
    assert score.whole() == frechet_distance(x, y, ddof)
    assert (score.num_real, score.num_generated) == (n, m)


@pytest.mark.parametrize("kept", [1000, 10])
def test_kernel_of_parts(kept, monkeypatch):
    monkeypatch.setattr(resampling, "KERNEL_CLIPS", kept)
    x, y = sets(23, 18, 5)
    score, one, other = KernelOfSubsets(x, y), cut(23, 3, 0), cut(18, 3, 1)
    found = score.parts(one, other, 3)
    for turn, row in enumerate(found):
        assert row == pytest.approx([kernel_distance(x[one[i]], y[other[(i + turn) % 3]]) for i in range(3)], rel=1e-10)
    assert score.whole() == kernel_distance(x, y)


def test_inception_of_parts():
    rows = np.random.default_rng(0).dirichlet(np.ones(5), 30)
    score, parts = InceptionOfSubsets(rows, 3), cut(30, 2, 0)
    assert score.parts(cut(0, 2, 1), parts) == [[inception_score(rows[part], 3)[0] for part in parts]]
    assert score.whole() == inception_score(rows, 3)[0] and score.num_real == 0


def test_keys_are_equal_for_equal_real_clips_and_scores_only():
    x, y = sets(12, 14, 3)
    key = FrechetOfSubsets(x, y).key
    assert key == FrechetOfSubsets(x, y + 1).key
    others = [FrechetOfSubsets(x + 1, y), FrechetOfSubsets(x, y, ddof=1), KernelOfSubsets(x, y)]
    assert len({key, *(other.key for other in others)}) == 4
