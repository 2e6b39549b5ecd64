"""Nearest training clips: exactly the nearest, copies found, held-out clips as the yardstick."""

import numpy as np
import pytest

from lavita.metrics.memorization import memorization, nearest_real


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_nearest_is_the_nearest(offset, monkeypatch):
    monkeypatch.setattr("lavita.metrics.memorization.BLOCK", 7)
    rng = np.random.default_rng(0)
    queries, references = rng.standard_normal((40, 5)) + offset, rng.standard_normal((60, 5)) + offset
    queries[3], references[20] = references[17], references[17]
    index, distances = nearest_real(queries, references)
    wanted = np.sqrt(((queries[:, None] - references[None]) ** 2).sum(axis=2))
    assert np.array_equal(index, wanted.argmin(axis=1))
    assert distances == pytest.approx(wanted.min(axis=1), rel=1e-12, abs=0)
    assert index[3] == 17 and distances[3] == 0.0


def test_a_fresh_sample_is_as_far_as_held_out_clips_and_copies_are_found():
    rng = np.random.default_rng(1)
    train, heldout, fresh = rng.standard_normal((300, 6)), rng.standard_normal((400, 6)), rng.standard_normal((400, 6))
    names = [f"video{i}@0" for i in range(300)]
    found = memorization(fresh, train, heldout, names)
    # Medians and shares of 400 against 400: standard errors below 0.03 and 0.016.
    assert found.ratio == pytest.approx(1, abs=0.1) and found.near_share == pytest.approx(0.05, abs=0.05)
    assert len(found.copies) == 0

    copied = fresh.copy()
    copied[5], copied[7] = train[211], train[12] + 1e-6
    found = memorization(copied, train, heldout, names)
    assert list(found.copies) == [5, 7] and found.distances[5] == 0.0
    assert [line[:2] for line in found.closest(2)] == [(5, "video211@0"), (7, "video12@0")]
    middle = np.median([np.linalg.norm(train - clip, axis=1).min() for clip in heldout])
    assert found.ratios == pytest.approx(found.distances / middle)

    almost = train[:100] + 0.05 * rng.standard_normal((100, 6))
    found = memorization(almost, train, heldout)
    assert found.ratio < 0.2 and found.near_share > 0.9 and found.names[3] == "3"


def test_what_cannot_be_compared_is_refused():
    rng = np.random.default_rng(2)
    train, other = rng.standard_normal((20, 3)), rng.standard_normal((10, 3))
    with pytest.raises(ValueError, match="hold other clips out"):
        memorization(other, train, train[:9])
    with pytest.raises(ValueError, match="widths 3, 3 and 2"):
        memorization(other, train, other[:, :2])
    with pytest.raises(ValueError, match="got 2 names for 20 training clips"):
        memorization(other, train, other, ["a", "b"])
    with pytest.raises(ValueError, match="held-out features: got 0 clips"):
        memorization(other, train, other[:0])
