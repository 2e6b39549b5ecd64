"""What a score of ours says of a published number that it can be compared with.

With the score's 95 % interval (over several seeds: their mean, from the lowest to the highest end):

* reproduced: the published value lies in that interval. A score without an interval is never `reproduced`.
* within tolerance: not so, but the interval overlaps value +- 1.96 std of the publication; where no std was seen in
  print, the score is within 10 % of the published value.
* not reproduced: neither, in whichever direction: a much better score is another result, too.

The score that is judged is that of training here; official weights are the referee. Where training here is not within
tolerance and no official weights were scored, the verdict is `no official weights`, since training and scoring can't be
told apart. Where they were scored and miss their own published number, the verdict is `not comparable`: the scoring
here is not the publication's. Where there are official weights alone, they are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavita.bench.reported import Reported

REPRODUCED, WITHIN, NOT_REPRODUCED = "reproduced", "within tolerance", "not reproduced"
NO_WEIGHTS, NOT_COMPARABLE = "no official weights", "not comparable"
TOLERANCE, NORMAL_95 = 0.10, 1.96


@dataclass(frozen=True)
class Score:
    """A score of ours: its name, mean over seeds, interval (None without one) and number of seeds."""

    metric: str
    value: float
    low: float | None
    high: float | None
    seeds: int


def score_of(rows: Sequence[Mapping[str, Any]]) -> Score:
    """Tidy rows of one metric and protocol, one a seed, as a score."""
    ends = {key: [row[key] for row in rows if row[key] not in ("", None)] for key in ("ci_low", "ci_high")}
    whole = all(len(values) == len(rows) for values in ends.values())
    low, high = (min(map(float, ends["ci_low"])), max(map(float, ends["ci_high"]))) if whole else (None, None)
    return Score(str(rows[0]["metric"]), sum(float(row["value"]) for row in rows) / len(rows), low, high, len(rows))


def judged(published: Reported, trained: Score | None, official: Score | None) -> tuple[str, str]:
    """The verdict and what it rests on, "" where that is plain. Rules: at the head of this file."""
    own = None if official is None else nearness(published, official)
    if trained is None:
        return own, "official weights only"
    if own == NOT_REPRODUCED:
        return NOT_COMPARABLE, f"official weights score {official.value:.4g} here: another scoring than published"
    found = nearness(published, trained)
    if found == NOT_REPRODUCED and official is None:
        return NO_WEIGHTS, "off by more than tolerance; training and scoring can't be told apart"
    return found, ""


def nearness(published: Reported, score: Score) -> str:
    """How near a score comes to a published number: reproduced, within tolerance or not reproduced."""
    low, high = (score.value, score.value) if score.low is None else (score.low, score.high)
    if score.low is not None and low <= published.value <= high:
        return REPRODUCED
    if published.seen_std is not None:
        half = NORMAL_95 * published.seen_std
        within = low <= published.value + half and published.value - half <= high
    else:
        within = abs(score.value - published.value) <= TOLERANCE * published.value
    return WITHIN if within else NOT_REPRODUCED
