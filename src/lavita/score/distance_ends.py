"""The ends of the interval of an extrapolated distance, which can be near 0 and then is not normal.

Near 0 a distance of sample moments behaves as a sum of squares w_k (a_k + noise)^2, its truth x being sum w_k a_k^2.
Its variance is then V(x) = v + s x: v is left where the truth is 0, and the part l due to single clips is proportional
to x. An interval that takes the variance at what was found, l + v, is too short where chance made the distance small,
as l is then found small too, and too long where the truth is 0. So an end is the x at which what was found is just as
far away as t V(x)^(1/2) allows, as in Wilson's interval of a share (1927). Where all a_k are 0 the sum follows a
chi-squared distribution with k = 2 (b/n)^2 / v degrees of freedom (Satterthwaite 1946), skewed to the right, so the
lower end asks for more than t.
"""

from __future__ import annotations

import math

import numpy as np

from lavita.score.resampling import Resampled

BISECTIONS = 60


def distance_ends(resampled: Resampled, t: float) -> tuple[float, float]:
    """(low, high) of an extrapolated distance; t: how many standard deviations an end is away if all were normal."""
    x, v, bias = extrapolated(resampled), quadratic_variance(resampled), noise_bias(resampled)
    if v == 0:  # every part scores the same
        return x, x
    slope = variance_slope(resampled)
    high = crossing(x, v, slope, t)[1]
    skewed = chi_squared_factor(2 * bias**2 / v, t)
    low, last = crossing(x, v, slope, skewed)[0], crossing(x, v, slope, t)[0]
    if low <= 0:
        return low, high
    for _ in range(BISECTIONS):
        middle = (low + last) / 2
        share = v / (v + slope * middle)  # of the variance, that of a truth of 0
        # The skewness of a non-central chi-squared variable, in units of the central one's.
        left = 1.5 * math.sqrt(share) - 0.5 * share**1.5
        far = x - middle > (t + (skewed - t) * left) * math.sqrt(v + slope * middle)
        low, last = (middle, last) if far else (low, middle)
    return low, high


def extrapolated(resampled: Resampled) -> float:
    """x: the distance of all clips less its bias."""
    return resampled.value + float(resampled.gaps().mean())


def quadratic_variance(resampled: Resampled) -> float:
    """v, and what having so few halvings adds to it."""
    gaps = resampled.gaps()
    return float(gaps.var(ddof=1)) * (1 + 1 / len(gaps))


def noise_bias(resampled: Resampled) -> float:
    """b/n = sum w_k, at least what v = 2 sum w_k^2 makes it: a kernel distance has this bias taken out."""
    return max(abs(float(resampled.gaps().mean())), math.sqrt(quadratic_variance(resampled) / 2))


def crossing(x: float, v: float, slope: float, t: float) -> tuple[float, float]:
    """The two y with (x - y)^2 = t^2 (v + slope y); where there are none, the y in their middle twice."""
    middle = x + t * t * slope / 2
    half = t * math.sqrt(max(0.0, slope * x + t * t * slope * slope / 4 + v))
    return middle - half, middle + half


def variance_slope(resampled: Resampled) -> float:
    """s of V(x) = v + s x: l / x as found.

    An estimate of l from few clips may by chance be near 0 together with the distance, so s is at least half of what it
    is for a_k^2 in the proportions of the noise, 2 v / (b / n); that matters only where l is not large against v.
    """
    v = quadratic_variance(resampled)
    linear = max(float(np.mean(resampled.sways() ** 2)) - 2 * v, 0.0)
    slope = linear / max(extrapolated(resampled), math.sqrt(v))
    return max(slope, v / noise_bias(resampled) * v / (v + linear))


def chi_squared_factor(freedom: float, t: float) -> float:
    """The value that a chi-squared variable exceeds as often as a normal one exceeds t, in standard deviations from
    the mean. Source: Wilson & Hilferty 1931, good to 3 % from one degree of freedom on.
    """
    part = 2 / (9 * freedom)
    return freedom * ((1 - part + t * math.sqrt(part)) ** 3 - 1) / math.sqrt(2 * freedom)
