"""The interval of a score as columns of a row, and what it would be with infinitely many clips."""

from __future__ import annotations

from typing import Any

from lavita.score.intervals import LEAST_CLIPS, ScoreOfSubsets, interval, resample


def interval_columns(score: ScoreOfSubsets, value: float, is_distance: bool = True) -> dict[str, Any]:
    """ci_low, ci_high and ci_kind of a value at its own number of clips; extrapolated, with extrapolated_low and _high,
    is the score in the limit of infinitely many, which another number of clips can be compared with.

    {} for too few clips to be cut in parts. value: as the protocol computes it; the interval is laid around it.
    """
    if score.num_generated < LEAST_CLIPS or 0 < score.num_real < LEAST_CLIPS:
        return {}
    found = interval(resample(score), is_distance)
    low, high = (value + (end - found.value) for end in found.of_value())
    kind = f"{100 * found.level:g} %, other samples of as many clips, from random halves without replacement"
    columns: dict[str, Any] = {"ci_low": low, "ci_high": high, "ci_kind": kind, "extrapolated": found.extrapolated}
    columns |= {"extrapolated_low": found.low, "extrapolated_high": found.high}
    return columns | ({"interval_remark": found.remark} if found.remark else {})
