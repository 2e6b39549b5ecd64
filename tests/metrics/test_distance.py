"""Frechet and kernel distance against recorded figures, closed forms and another arithmetic."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from lavita.metrics import distances
from lavita.metrics.distances import Moments, frechet_distance, frechet_of_moments, frechet_of_rows, kernel_distance

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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_one_value_that_is_not_finite_among_many_clips(value, side):
    sets = [np.random.default_rng(seed).standard_normal((300, 4)) for seed in (0, 1)]
    sets[side][211, 2] = value
    name = ("real", "generated")[side]
    with pytest.raises(ValueError, match=rf"{name} features: clip 211 .* \(1 of 300 clips do\)"):
        frechet_distance(*sets)


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


def random_covariances(rng, d):
    """Factors A, B of covariances A^T A and B^T B: axis-aligned or turned, in any order, of one shape or of two."""

    def one():
        spectrum = np.exp(-np.log(10 ** rng.uniform(0, 12)) * np.linspace(0, 1, d) ** rng.choice([0.3, 1.0, 3.0]))
        turn = np.linalg.qr(rng.standard_normal((d, d)))[0] if rng.random() < 0.3 else np.eye(d)
        return np.sqrt(rng.permutation(spectrum))[:, None] * turn.T

    first = one()
    return first, rng.uniform(0.9, 1.1) * first if rng.random() < 0.5 else one()


def test_covariances_give_the_distance_wherever_they_say_they_do():
    rng, taken = np.random.default_rng(4), 0
    for _ in range(60):
        a, b = random_covariances(rng, 40)
        x, y = rng.standard_normal((200, 40)) @ a, rng.standard_normal((200, 40)) @ b + rng.choice([0, 0.5])
        wanted = frechet_of_rows(x, y)
        value, error = frechet_of_moments(Moments.of(x), Moments.of(y))
        if error <= distances.ACCEPTED_ERROR * value:
            taken += 1
            # The estimate allows 1e-8; the docstring says what is found.
            assert value == pytest.approx(wanted, rel=1e-11)
    assert taken > 30


def test_a_covariance_without_full_rank_is_never_trusted():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((200, 8)) @ rng.standard_normal((8, 12))
    for y in (rng.standard_normal((200, 12)), x, x[::-1]):
        value, error = frechet_of_moments(Moments.of(x), Moments.of(y))
        assert not error <= distances.ACCEPTED_ERROR * value
    # Known exactly: a set against itself moved by one in each of 12 features.
    assert frechet_distance(x, x + 1) == pytest.approx(12, abs=1e-10)


def test_large_means_cost_no_digits():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((300, 6)), 1.5 * rng.standard_normal((300, 6))
    near = frechet_distance(x, y)
    # Adding 2^20 rounds features to 2^-33, so the distance by some 1e-10 times its own derivative of order 1.
    assert frechet_distance(x + 2.0**20, y + 2.0**20) == pytest.approx(near, rel=1e-8)
    assert Moments.of(x + 1).rounding > Moments.of(x).rounding > 1 == Moments.of(x + 9).rounding
    wanted = np.cov(x.T, ddof=1)
    for shift in (0, 1, 9):
        assert np.allclose(Moments.of(x + shift, ddof=1).covariance, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n, m, d", [(300, 260, 40), (30, 300, 40), (30, 20, 40)])
def test_exchanging_the_sets_changes_no_bit(n, m, d):
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((m, d)) * np.linspace(0.1, 3, d)
    assert frechet_distance(x, y) == frechet_distance(y, x)


def test_features_of_every_width_and_type():
    rng = np.random.default_rng(8)
    for d in (1, 2, 3):
        x, y = rng.standard_normal((50, d)), rng.standard_normal((60, d)) + 1
        assert frechet_distance(x, y) == pytest.approx(frechet_of_rows(x, y), rel=1e-12)
    # One feature: the distance of two numbers twice, means and standard deviations.
    x, y = x[:, :1], y[:, :1]
    assert frechet_distance(x, y) == pytest.approx((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2, rel=1e-12)
    single = x.astype(np.float32)
    assert frechet_distance(single, y) == frechet_distance(single.astype(np.float64), y)


def test_kernel_sums_do_not_depend_on_how_many_rows_are_held(monkeypatch):
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((50, 5)), rng.standard_normal((41, 5))
    whole = kernel_distance(x, y)
    monkeypatch.setattr(distances, "KERNEL_ENTRIES", 300)  # 6 or 7 rows
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_a_clip_that_is_not_finite_is_named():
    rows = np.ones((3, 2))
    rows[1, 0] = np.inf
    with pytest.raises(ValueError, match=r"real features: clip v_dog_7 has .* \(1 of 3 clips do\)"):
        distances.check_features(rows, "real", names=["a", "v_dog_7", "b"])
