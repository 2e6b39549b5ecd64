"""Intervals: coverage of the truth, the algebra behind them, comparisons."""

import json

import numpy as np
import pytest

from lavita.metrics.confidence import (
    Interval,
    Resampled,
    compare,
    compare_intervals,
    interval,
    resample,
    seed_spread,
    student_quantile,
    variance,
)
from lavita.metrics.resampling import (
    FrechetOfSubsets,
    InceptionOfSubsets,
    KernelOfSubsets,
    chi_squared_factor,
    crossing,
    distance_ends,
    variance_slope,
)

TABLE = 0.0005  # half a unit of the last digit of the tables of quantiles


def covered(draw, truth, draws=100, resamples=80):
    """Of so many draws, how many intervals hold the truth; and mean and spread of the extrapolated distance."""
    rng, inside, found = np.random.default_rng(0), 0, []
    for seed in range(draws):
        made = interval(resample(FrechetOfSubsets(*draw(rng)), resamples, seed))
        inside += made.low <= truth <= made.high
        found.append(made.extrapolated)
    return inside, np.mean(found), np.std(found) / np.sqrt(draws)


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (0.3, 1.2), (1.0, 2.0)])
def test_a_95_per_cent_interval_covers_the_distance_of_two_known_gaussians(shift, scale):
    d, n = 6, 150
    truth = d * shift**2 + d * (scale - 1) ** 2
    draw = lambda rng: (rng.standard_normal((n, d)), shift + scale * rng.standard_normal((n, d)))  # noqa: E731
    inside, mean, error = covered(draw, truth)
    # What the issue asks for. Measured over 1000 draws and more: 93 to 97 of 100, see docs/scoring.md.
    assert 90 <= inside <= 99
    # The bias is gone: it was d (d + 5) / (2 n) (1 + scale^2) / 2 or so, 0.22 and more.
    assert abs(mean - truth) < 4 * error


class Quadratic:
    """A score that is linear and quadratic in the clips and nothing else: |a + mean of x_i|^2 of generated x (n, d).

    Its expectation is |a|^2 + d / n for normal x; its variance 4 |a|^2 / n + 2 d / n^2.
    """

    num_real, key = 0, "quadratic"

    def __init__(self, a, x):
        self.a, self.x, self.num_generated = a, x, len(x)

    def whole(self):
        return float(np.sum((self.a + self.x.mean(axis=0)) ** 2))

    def parts(self, real, generated, pairings):
        return [[float(np.sum((self.a + self.x[part].mean(axis=0)) ** 2)) for part in generated]] * pairings


@pytest.mark.parametrize("length", [0.0, 0.5])
def test_bias_and_variance_are_those_of_the_derivation(length):
    rng, n, d = np.random.default_rng(1), 100, 10
    a = np.full(d, length / np.sqrt(d))
    bias, linear, square, extrapolated = [], [], [], []
    for seed in range(300):
        made = resample(Quadratic(a, rng.standard_normal((n, d))), 80, seed)
        bias.append(-made.gaps().mean())
        square.append(made.gaps().var(ddof=1))
        linear.append(np.mean(made.sways() ** 2) - 2 * square[-1])
        extrapolated.append(made.value + made.gaps().mean())
    for found, wanted in (
        (bias, d / n),
        (square, 2 * d / n**2),
        (linear, 4 * length**2 / n),
        (extrapolated, length**2),
    ):
        # 4 standard errors, and terms of order 1/n that the derivation leaves out.
        assert abs(np.mean(found) - wanted) < 4 * np.std(found) / np.sqrt(300) + 0.03 * wanted, wanted
    # And the extrapolated value does have the variance that is said; a variance from 300 is known to 8 per cent.
    assert np.var(extrapolated) == pytest.approx(4 * length**2 / n + 2 * d / n**2, rel=0.3)


def test_the_bootstrap_would_be_biased():
    rng, n = np.random.default_rng(2), 100
    x, y = rng.standard_normal((2, n, 4))
    score = FrechetOfSubsets(x, y)
    drawn = [score.of_rows(*rng.integers(n, size=(2, n))) for _ in range(100)]
    made = interval(resample(score, 200))
    # Means double (two noises in place of one); ours takes the one noise that there is away.
    assert np.mean(drawn) > 1.5 * score.whole() and made.extrapolated < 0.5 * score.whole()


def test_a_line_in_one_over_n_and_what_a_parabola_says():
    class Known:
        num_real, num_generated, key = 0, 400, "known"

        def __init__(self, square):
            self.square = square

        def at(self, n):
            return 5 + 300 / n + self.square / n**2

        def whole(self):
            return self.at(400)

        def parts(self, real, generated, pairings):
            return [[self.at(len(part)) for part in generated]] * pairings

    straight = interval(resample(Known(0.0)))
    assert straight.extrapolated == pytest.approx(5, abs=1e-12) and straight.parabola == pytest.approx(5, abs=1e-12)
    assert straight.low == pytest.approx(5, abs=1e-6) and straight.high == pytest.approx(5, abs=1e-6)
    assert straight.mean_at == pytest.approx({400: 5.75, 200: 6.5, 100: 8.0}, abs=1e-12)
    assert straight.of_value() == pytest.approx((5.75, 5.75), abs=1e-6)
    bent = interval(resample(Known(40000.0)))
    assert bent.parabola == pytest.approx(5, abs=1e-12) and bent.extrapolated == pytest.approx(4.5, abs=1e-12)
    assert "not linear in 1/n at this size" in bent.remark


def pair(seed, shift=0.3, n=120, d=4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), shift + rng.standard_normal((n, d))


def test_the_seed_decides_everything_and_cuts_every_score_alike():
    x, y = pair(0)
    once, again, other = (resample(FrechetOfSubsets(x, y), 80, seed) for seed in (1, 1, 2))
    assert np.array_equal(once.halves, again.halves) and interval(once) == interval(again)
    assert not np.array_equal(once.halves, other.halves)
    assert once.halves.shape == (36, 2) and once.quarters.shape == (2, 4)
    kept = Resampled.from_plain(json.loads(json.dumps(once.plain())))
    assert interval(kept) == interval(once)


def test_intervals_of_other_scores():
    x, y = pair(3)
    made = interval(resample(KernelOfSubsets(x, y), 80))
    # Unbiased as it is: extrapolating moves it by less than its spread.
    assert made.low < made.value < made.high and abs(made.value - made.extrapolated) < (made.high - made.low) / 10
    rows = np.random.default_rng(4).dirichlet(np.full(5, 0.3), 200)
    made = interval(resample(InceptionOfSubsets(rows, 1), 80), is_distance=False)
    # Of few clips the mean row is too close to each of them, so the score is too low.
    assert made.extrapolated > made.value
    assert made.extrapolated - made.low == pytest.approx(made.high - made.extrapolated)


def test_equal_sets_are_at_distance_zero():
    x = pair(5)[0]
    made = interval(resample(FrechetOfSubsets(x, x), 40))
    # Whole against whole is 0; halves are drawn separately, so the line through both ends below 0.
    assert abs(made.value) < 1e-12 and made.extrapolated < 0


def test_too_few_clips_or_resamples_are_refused():
    x, y = pair(6)
    with pytest.raises(ValueError, match="got 6 real clips, wanted 8; 2 are missing"):
        resample(FrechetOfSubsets(x[:6], y))
    with pytest.raises(ValueError, match="got 7 generated clips, wanted 8; 1 are missing"):
        resample(FrechetOfSubsets(x, y[:7]))
    with pytest.raises(ValueError, match="got 39, wanted at least 40"):
        resample(FrechetOfSubsets(x, y), 39)


def three_methods(seed=7, n=120, d=4):
    """Real clips, a method, one no better and one clearly worse: samples of one noise, as of equal seeds."""
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((n, d)), rng.standard_normal((n, d))
    made = (0.3 + noise, 0.3 + noise + 0.02 * rng.standard_normal((n, d)), 0.4 + noise)
    return [resample(FrechetOfSubsets(x, y), 200) for y in made]


def test_comparisons_say_better_worse_and_not_told_apart():
    good, same, bad = three_methods()
    assert compare(good, bad).verdict == "better" and compare(bad, good).verdict == "worse"
    assert compare(good, bad, lower_is_better=False).verdict == "worse"
    assert compare(good, same).verdict == "not significantly different" == compare(good, good).verdict
    there, back = compare(good, bad), compare(bad, good)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_pairing_tells_apart_what_intervals_alone_do_not():
    good, _, bad = three_methods()
    alone = compare_intervals(interval(good), interval(bad))
    assert (
        alone.verdict == "not significantly different"
        and alone.low < compare(good, bad).low < compare(good, bad).high < 0
    )
    far = resample(FrechetOfSubsets(*pair(7, 2.0)), 80)
    assert compare_intervals(interval(good), interval(far)).verdict == "better"
    assert compare_intervals(interval(far), interval(good)).verdict == "worse"


def test_methods_that_do_not_differ_are_rarely_told_apart():
    rng, significant = np.random.default_rng(8), 0
    for seed in range(60):
        x, y, z = rng.standard_normal((3, 100, 4))
        significant += compare(*(resample(FrechetOfSubsets(x, part + 0.3), 80, seed) for part in (y, z))).verdict != (
            "not significantly different"
        )
    # 5 of 100 are expected; more than 9 of 60 would have a chance of 1e-3.
    assert significant <= 9


def test_what_was_not_cut_alike_is_not_compared():
    x, y = pair(9)
    one = resample(FrechetOfSubsets(x, y), 80)
    for other, message in (
        (resample(FrechetOfSubsets(x + 1, y), 80), "key is"),
        (resample(FrechetOfSubsets(x, y), 80, seed=1), "seed is 0 and 1"),
        (resample(FrechetOfSubsets(x, y[:100]), 80), "num_generated is 120 and 100"),
        (resample(FrechetOfSubsets(x, y), 120), "36 and 54 halvings"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(one, other)
    made = interval(one)
    with pytest.raises(ValueError, match="intervals of 0.95 and 0.9"):
        compare_intervals(made, interval(one, level=0.9))


def test_unpaired_ends_are_added_as_squares():
    one = Interval(0, 10.0, 7.0, 14.0, 0, {}, 0.95, "", "")
    other = Interval(0, 4.0, 0.0, 7.0, 0, {}, 0.95, "", "")
    made = compare_intervals(one, other)
    assert (made.difference, made.low, made.high) == pytest.approx((6, 6 - np.hypot(3, 3), 6 + np.hypot(4, 4)))


def test_variance_never_falls_below_the_quadratic_part():
    gaps = np.array([0.1, -0.1, 0.2, -0.2])
    v = gaps.var(ddof=1)
    assert variance(gaps, np.zeros(4)) == pytest.approx(v + v / 4)
    assert variance(gaps, np.full(4, 3.0)) == pytest.approx(9 - v + v / 4)


def test_seeds():
    values = [30.0, 34.0, 29.0]
    made = seed_spread(values)
    assert (made.mean, made.deviation) == (np.mean(values), np.std(values, ddof=1))
    half = 4.303 * np.sqrt(7 / 3)  # Student's t of two degrees of freedom by its table; squares of -1, 3 and -2 are 14
    assert (made.low, made.high) == pytest.approx((31 - half, 31 + half), abs=TABLE * np.sqrt(7 / 3))
    assert made.seeds == 3
    with pytest.raises(ValueError, match="got 1 training seed, wanted at least 2"):
        seed_spread([1.0])


@pytest.mark.parametrize(
    "freedom, quantile", [(1, 5.024), (2, 7.378), (3, 9.348), (10, 20.483), (30, 46.979), (100, 129.561)]
)
def test_chi_squared_factor(freedom, quantile):
    """Against the 0.975 quantiles of textbooks' tables; the normal one is 1.959964."""
    wanted = (quantile - freedom) / np.sqrt(2 * freedom)
    assert chi_squared_factor(freedom, 1.959964) == pytest.approx(wanted, abs=TABLE / np.sqrt(2 * freedom))


def test_chi_squared_factor_of_many_degrees_of_freedom_is_normal():
    """The skewness of (8 / k)^(1/2) adds (t^2 - 1) / 6 of itself (Cornish & Fisher); the next is of order 1 / k."""
    for freedom in (1e6, 1e12, 1e18):
        wanted = 2 + (2**2 - 1) / 6 * np.sqrt(8 / freedom)
        # To what float64 leaves of a difference of two numbers near k, in units of (2 k)^(1/2).
        rounding = 4 * np.finfo(float).eps * np.sqrt(freedom)
        assert chi_squared_factor(freedom, 2.0) == pytest.approx(wanted, abs=1 / freedom + rounding)


@pytest.mark.parametrize(
    "freedom, quantile", [(1, 12.706), (2, 4.303), (5, 2.571), (9, 2.262), (30, 2.042), (120, 1.980)]
)
def test_student_quantile(freedom, quantile):
    """Against textbooks' tables."""
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, abs=TABLE)


def halvings(value, gaps, sways):
    """A Resampled of these D and G."""
    middle = value - np.asarray(gaps)
    halves = np.stack([middle + sways, middle - sways], axis=1)
    return Resampled(value, halves, np.full((2, 4), value), 10**6, 10**6, 0, "")


def test_ends_are_where_what_was_found_is_as_far_as_may_be():
    rng = np.random.default_rng(10)
    noise = rng.standard_normal(200)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    sways = rng.standard_normal(200)
    sways /= np.sqrt(np.mean(sways**2))
    # b/n = 50 and v = 1: 5000 degrees of freedom, normal; l = 8 at x = 30: V(x) = 1 + 8 x / 30.
    made = halvings(80.0, -50 + noise / np.sqrt(1.005), np.sqrt(10.0) * sways)
    assert variance_slope(made) == pytest.approx(8 / 30)
    low, high = distance_ends(made, 2.0)
    for end in (low, high):
        assert 30 - end == pytest.approx(np.sign(30 - end) * 2 * np.sqrt(1 + end * 8 / 30), rel=0.02)
    assert (crossing(30, 1, 8 / 30, 2)[1]) == high
    # At a truth of 0 only v counts, with the skewness of k = 2 (b/n)^2 / v = 8 degrees of freedom.
    bound = chi_squared_factor(8, 2.0)
    assert bound > 2.2
    for x, inside in ((bound - 0.05, True), (bound + 0.05, False)):
        made = halvings(x + 2, -2 + noise / np.sqrt(1.005), 3 * sways)
        assert (distance_ends(made, 2.0)[0] <= 0) == inside
