"""The inception score against the recorded figure, its closed forms, and its definition."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from lavita.metrics.distances import inception_score


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def test_recorded_figure():
    wanted = json.loads((Path(__file__).parents[1] / "parity" / "inception_score.json").read_text())["outputs"]
    logits = np.random.default_rng(zlib.crc32(b"inception_score/logits")).standard_normal([512, 101])
    mean, deviation = inception_score(softmax(2 * logits.astype(np.float32).astype(np.float64)), 10)
    assert mean == pytest.approx(wanted["mean"], rel=1e-9)
    assert deviation == pytest.approx(wanted["std"], rel=1e-9)


def test_sure_and_evenly_spread_is_the_number_of_classes():
    rows = np.eye(5)[np.arange(50) % 5]
    assert inception_score(rows, 1) == pytest.approx((5.0, 0.0), abs=1e-12)


def test_equal_rows_score_one():
    rows = np.tile(softmax(np.arange(7.0)[None]), (20, 1))
    mean, deviation = inception_score(rows, 4)
    assert mean == pytest.approx(1.0, abs=1e-12) and deviation == pytest.approx(0.0, abs=1e-12)


def test_a_probability_whose_mean_rounds_to_zero_adds_nothing():
    smallest = np.nextafter(0.0, 1.0)
    rows = np.array([[1.0, 0.0, smallest], [0.0, 1.0, 0.0]])
    assert smallest / 2 == 0.0
    assert inception_score(rows, 1) == pytest.approx((2.0, 0.0), abs=1e-12)


def test_splits_are_consecutive_rows_when_not_shuffled():
    rows = softmax(np.random.default_rng(0).standard_normal((11, 4)))
    scores = []
    for i in range(3):
        part = rows[i * 11 // 3 : (i + 1) * 11 // 3]
        scores.append(np.exp(np.mean(np.sum(part * np.log(part / part.mean(axis=0)), axis=1))))
    assert inception_score(rows, 3, None) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-12)


def test_the_rows_given_are_left_as_they_are():
    rows = softmax(np.random.default_rng(1).standard_normal((12, 4)))
    before = rows.copy()
    inception_score(rows, 2)
    assert np.array_equal(rows, before)


def test_what_is_no_set_of_probabilities_is_refused():
    rows = softmax(np.random.default_rng(2).standard_normal((6, 3)))
    with pytest.raises(ValueError, match="6 clips for 7 splits"):
        inception_score(rows, 7)
    with pytest.raises(ValueError, match="apply a softmax"):
        inception_score(rows * 3, 2)
    rows[4, 0] = np.nan
    with pytest.raises(ValueError, match="clip 4"):
        inception_score(rows, 2)
