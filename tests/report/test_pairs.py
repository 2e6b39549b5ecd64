"""Comparing rows: a two-way layout solved by least squares, and simulated equal rows."""

import math

import numpy as np
import pytest

from lavita.report.significance import compared, pairs_of_rows
from lavita.results.rows import Row


def test_interval_is_that_of_the_least_squares_two_way_layout():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=(5, 3)))
    scores = {f"row{i}": {seed: values[i, seed] for seed in range(3)} for i in range(5)}
    design = np.zeros((15, 5 + 2))
    for i in range(5):
        for seed in range(3):
            design[3 * i + seed, i] = 1
            if seed:
                design[3 * i + seed, 4 + seed] = 1
    y = np.log(values).ravel()
    solution, squares, _, _ = np.linalg.lstsq(design, y, rcond=None)
    covariance = squares[0] / (15 - 7) * np.linalg.inv(design.T @ design)
    for i, pair in enumerate(compared(scores, "fvd"), start=1):
        contrast = np.zeros(7)
        contrast[i], contrast[0] = 1, -1
        deviation = math.sqrt(contrast @ covariance @ contrast)
        assert math.log(pair.ratio) == pytest.approx(contrast @ solution, abs=1e-10)
        for end, t in ((pair.ci_low, -2.306), (pair.ci_high, 2.306)):  # by the table: 8 degrees of freedom
            assert math.log(end) == pytest.approx(contrast @ solution + t * deviation, abs=0.0005 * deviation)


def test_equal_rows_are_told_apart_about_once_in_twenty():
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(400):
        seeds = rng.normal(size=2)
        scores = {i: {s: math.exp(seeds[s] + 0.1 * rng.normal()) for s in (0, 1)} for i in range(6)}
        called += compared(scores, "fvd")[0].verdict.startswith("significantly different")
    # 400 draws of probability 0.05: mean 20, standard deviation 4.4; five deviations either way.
    assert 0 < called < 42


def test_verdicts():
    scores = {"a": {0: 100.0, 1: 110.0}, "b": {0: 10.0, 1: 11.0}, "c": {0: 100.5, 1: 109.5}, "d": {0: 900.0, 1: 1000.0}}
    b, c, d = compared(scores, "fvd")
    assert b.verdict == "significantly different: better" and b.ratio == pytest.approx(0.1) and b.ci_high < 1
    assert c.verdict.startswith("not significantly different") and c.ci_low < 1 < c.ci_high
    assert d.verdict == "significantly different: worse"
    (alone,) = compared({"a": {0: 100.0}, "b": {0: 50.0}}, "fvd")
    assert alone.ratio == 0.5 and alone.ci_low is None and "--seeds" in alone.verdict
    failed = compared({"a": {0: 9.0, 1: 9.5}, "b": {0: 5.0}, "c": {0: 8.0, 1: 8.0}}, "fvd")[0]
    assert failed.ci_low is None and "not every seed" in failed.verdict


def test_another_protocol_is_not_compared():
    def row(label, seed, value, protocol):
        facts = {"stage": "train", "metric": "fvd_n8_f8", "protocol": protocol, "protocol_hash": protocol}
        return Row(cell=f"{label}-s{seed}", seed=seed, value=value, **facts)

    rows = [row("v1", s, 100 + s, "p") for s in (0, 1)] + [row("v1-x", s, 50 + s, "p") for s in (0, 1)]
    rows += [row("v1-interval1", s, 9, "q") for s in (0, 1)]
    one, other = pairs_of_rows(rows, ["v1", "v1-x", "v1-interval1"])
    assert (one.choice, one.against, one.seeds) == ("v1-x", "v1", 2)
    assert other.choice == "v1-interval1" and other.ratio is None and "another protocol, q" in other.verdict
