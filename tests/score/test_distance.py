"""Frechet and kernel distance against recorded figures, closed forms and another arithmetic."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from lavita.score.distance import frechet_distance, kernel_distance

CASES = Path(__file__).parents[1] / "parity"


def z(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case, n, m", [("frechet_full", 300, 260), ("frechet_rank_deficient", 40, 48)])
def test_recorded_figures(case, n, m):
    wanted = json.loads((CASES / f"{case}.json").read_text())["outputs"]
    real = z(f"{case}/real", [n, 64]).astype(np.float64)
    generated = 1.2 * z(f"{case}/gen", [m, 64]).astype(np.float64) + 0.1
    generated[:, ::3] /= 2
    assert frechet_distance(real, generated) == pytest.approx(wanted["frechet_ddof0"], rel=1e-9, abs=0)
    assert frechet_distance(real, generated, ddof=1) == pytest.approx(wanted["frechet_ddof1"], rel=1e-9, abs=0)
    assert kernel_distance(real, generated) == pytest.approx(wanted["kernel_poly3_unbiased_mmd"], rel=1e-9, abs=0)


@pytest.mark.parametrize("n, d, rank", [(48, 400, 48), (2048, 400, 200), (2048, 400, 400)])
def test_a_set_is_at_no_distance_from_itself(n, d, rank):
    rng = np.random.default_rng(n + rank)
    x = 3 + rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d)) / np.sqrt(rank)
    assert abs(frechet_distance(x, x)) < 1e-8
    assert abs(frechet_distance(x, x[rng.permutation(n)])) < 1e-8


def test_closed_form_of_two_axis_aligned_gaussians():
    # Columns that are exactly uncorrelated, of mean 0 and variance 1: rows of a Hadamard matrix without its
    # constant.
    white = scipy.linalg.hadamard(64)[:, 1:9].astype(float)
    a, b = np.linspace(0.5, 2, 8), np.linspace(3, 0, 8)
    shift = np.arange(8.0)
    wanted = np.sum(shift**2) + np.sum((a - b) ** 2)
    # 8 terms of size below 50 in float64: rounding is below 8 * 50 * 2^-52 * a few.
    assert frechet_distance(a * white, b * white + shift) == pytest.approx(wanted, abs=1e-11)


def test_equals_scipys_matrix_root_and_is_symmetric():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 12)) @ rng.standard_normal((12, 12)), rng.standard_normal((90, 12))
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    gap = np.sum((x.mean(0) - y.mean(0)) ** 2)
    wanted = gap + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * np.trace(root)
    # The iterative root is good to about 1e-10 of the trace here.
    assert frechet_distance(x, y, ddof=1) == pytest.approx(wanted, rel=1e-8)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-12)


def test_kernel_distance_is_the_double_sum_over_different_clips():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((7, 5)), rng.standard_normal((6, 5)) + 0.3
    kernel = lambda a, b: (a @ b / 5 + 1) ** 3  # noqa: E731
    same = lambda s: np.mean([kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j])  # noqa: E731
    wanted = same(x) + same(y) - 2 * np.mean([[kernel(a, b) for b in y] for a in x])
    assert kernel_distance(x, y) == pytest.approx(wanted, rel=1e-12)


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    rng = np.random.default_rng(2)
    draws = [kernel_distance(rng.standard_normal((20, 6)), rng.standard_normal((20, 6))) for _ in range(200)]
    # Unbiased: the mean of 200 draws lies within 4 of its own standard errors of 0 (a chance of 6e-5 to fail
    # by luck; the draws are seeded).
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(200)
    assert min(draws) < 0


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_what_cannot_be_scored_is_refused(distance):
    good = np.random.default_rng(3).standard_normal((5, 4))
    bad = good.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match="generated features: clip 3 has a value that is not finite"):
        distance(good, bad)
    with pytest.raises(ValueError, match="real features: got 1 clips, wanted at least 2; 1 missing"):
        distance(good[:1], good)
    with pytest.raises(ValueError, match="real are 4 wide, generated 3"):
        distance(good, good[:, :3])
    with pytest.raises(ValueError, match="wanted 2"):
        distance(good[0], good)
