"""A score as a record holds it: what is absent is left out, what is malformed is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lavita.results.scores import NearestClip, Score

SCORE = Score(metric="fvd_n8_f4", stage="train", value=1.5, unit="u", lower_is_better=True)
FULL = replace(
    SCORE,
    lower_is_better=None,
    ci_low=1.0,
    ci_high=2.0,
    ci_kind="95 %",
    extrapolated=1.25,
    extrapolated_low=0.5,
    extrapolated_high=1.75,
    interval_remark="not linear",
    n_real=8,
    n_generated=9,
    copies=0,
    closest=(NearestClip(3, "v@0", 0.5, 0.25),),
    extractor="i3d",
    extractor_hash="abc",
    sampling_seconds_per_clip=0.1,
)


def test_what_is_absent_is_left_out():
    plain = {"metric": "fvd_n8_f4", "stage": "train", "value": 1.5, "unit": "u", "lower_is_better": True}
    assert SCORE.to_json() == plain
    assert replace(SCORE, lower_is_better=None).to_json() == plain | {"lower_is_better": None}
    assert replace(SCORE, copies=0).to_json() == plain | {"copies": 0}
    assert FULL.to_json()["closest"] == [{"clip": 3, "training_clip": "v@0", "distance": 0.5, "ratio": 0.25}]


@pytest.mark.parametrize("score", [SCORE, FULL], ids=["least", "most"])
def test_reading_undoes_writing(score):
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score


@pytest.mark.parametrize(
    "entries, words",
    [
        ([], r"score: got \[\], wanted a mapping"),
        ({}, "score None: key 'value' is missing"),
        ({"metric": "m", "stage": "train", "value": 1.0, "unit": "u"}, "score 'm': key 'lower_is_better' is missing"),
        (SCORE.to_json() | {"valeu": 1}, "score 'fvd_n8_f4': unknown key 'valeu'"),
        (SCORE.to_json() | {"value": "1.5"}, "score 'fvd_n8_f4': value: got '1.5', wanted a number"),
        (SCORE.to_json() | {"value": True}, "value: got True, wanted a number"),
        (SCORE.to_json() | {"value": None}, "value: got None, wanted a number"),
        (SCORE.to_json() | {"copies": 0.5}, "copies: got 0.5, wanted a whole number"),
        (SCORE.to_json() | {"metric": ["m"]}, r"metric: got \['m'\], wanted text"),
        (SCORE.to_json() | {"closest": [{"clip": 1}]}, r"closest\[0\].training_clip' is missing"),
        (SCORE.to_json() | {"closest": 3}, "closest: got 3, wanted a list"),
    ],
)
def test_malformed_scores_are_refused_in_one_line(entries, words):
    with pytest.raises(ValueError, match=words) as caught:
        Score.from_json(entries)
    assert "\n" not in str(caught.value)
