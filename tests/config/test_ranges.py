"""Every number of the configuration has a range, and none outside it gets past the plan."""

from __future__ import annotations

import dataclasses
import math
import typing

import pytest

from lavita.config.compose import SECTIONS, compose, load_method, load_suite, read_experiment
from lavita.config.overrides import apply_overrides
from lavita.config.ranges import RANGES, Range
from lavita.config.schema import ConfigError, check_model

QUICK = ("--suite", "ucf101", "--tier", "demo", "--methods", "lavita-v1", "--dry-run")
SUITE, METHOD = load_suite("ucf101-class"), load_method("lavita-v1")
CONFIG = compose(SUITE, "demo", METHOD, True)


def plan(*overrides: str):
    """As make_plan's, of one method, without reading every file again."""
    return read_experiment(SUITE, "demo", METHOD, "", 0, apply_overrides(CONFIG, overrides))


def numeric_keys() -> dict[str, type]:
    found = {}
    for section, cls in SECTIONS.items():
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            options = typing.get_args(hints[field.name]) or (hints[field.name],)
            for kind in (int, float):
                if kind in options:
                    found[f"{section}.{field.name}"] = kind
    return found


KEYS = numeric_keys()
# Values that a plan of the demo takes beside the number, so that the number alone is at fault.
BESIDE = {
    "budget.flops": ["budget.currency=flops"],
    "budget.seconds": ["budget.currency=seconds"],
    "train.ema_decay": ["train.ema_halflife_share=null"],
    "pretraining.share": ["pretraining.method=dit"],
    "data.resolution": [],
}


def outside() -> list[tuple[str, str]]:
    """(key, value): just below each range, just above it, and no number at all."""
    found = []
    for key, kind in KEYS.items():
        allowed = RANGES[key]
        low = allowed.low if allowed.open_low else allowed.low - (1 if kind is int else 0.001)
        found.append((key, f"{low:g}"))
        found.append((key, f"{allowed.low - 1000:g}"))
        if allowed.high < math.inf:
            high = allowed.high if allowed.open_high else allowed.high + (1 if kind is int else 0.001)
            found.append((key, f"{int(high)}" if kind is int else f"{high:g}"))
        if kind is float:
            found += [(key, "nan"), (key, "inf")]
    return found


def test_the_table_holds_every_number_and_nothing_else():
    assert set(RANGES) == set(KEYS)


def test_numbers_outside_are_refused_in_one_line():
    for key, value in outside():
        with pytest.raises(ConfigError) as error:
            plan(*BESIDE.get(key, []), f"{key}={value}")
        said = str(error.value)
        assert "\n" not in said and said.startswith(f"{key}: got ") and ("wanted" in said or "allowed: 0, 1" in said)


NONSENSE = (
        "train.grad_clip_norm=-1", "train.learning_rate=0", "train.warmup_clips=-5000", "codec.kl_weight=-1",
        "sampling.eta=-1", "data.cache_bytes=-1", "train.class_dropout=2", "sampling.batch_clips=0", "sampling.steps=0",
        "train.learning_rate=-1e-3", "train.learning_rate=.nan", "train.beta1=1.5", "data.num_workers=-1",
        "codec.width=0", "sampling.steps=abc", "sampling.steps=10,0", "sampling.steps=ddim", "model.depth=-1",
        "model.patch_size=-2", "codec.clips=0",
)  # fmt: skip


@pytest.mark.parametrize("override", NONSENSE)
def test_nonsense_never_becomes_a_plan(override):
    """Case nonsense-numbers: each in one line with key and value."""
    key, _, value = override.partition("=")
    with pytest.raises(ConfigError) as error:
        plan(override)
    said = str(error.value)
    got = value.lstrip(".").replace("-1e-3", "-0.001")
    assert key in said and got in said and "\n" not in said


@pytest.mark.parametrize(
    "override",
    [
        "train.grad_clip_norm=-1", "sampling.steps=1001", "sampling.steps=ddim999", "model.patch_size=0",
        "model.num_heads=7", "codec.norm_groups=3",
    ],
)  # fmt: skip
def test_a_dry_run_refuses_them_too(script, override):
    """Case nonsense-numbers: status 2 before anything starts, also of what only the built network knows."""
    done = script("run")(*QUICK, override)
    key, _, value = override.partition("=")
    assert done.code == 2, done.out
    assert done.err.count("\n") == 1 and value in done.err, done.err
    assert key.partition(".")[2] in done.err


def test_evaluate_checks_the_same_table(script, tmp_path):
    words = ("--real", tmp_path, "--generated", tmp_path, "--protocol", "suite", "--offline")
    for override in ("protocol.clip_seed=-1", "protocol.windows_per_video=0", "protocol.n=1"):
        done = script("evaluate")(*words, override)
        assert done.code == 2 and done.err.count("\n") == 1 and "wanted" in done.err, done.err


def test_numbers_of_a_method_keep_the_sign_of_their_authors():
    check_model({"depth": 4, "shift": -1.0, "name": "x", "flag": True, "rates": [1, 2]}, {"depth": 2, "shift": -2.0})
    for model in ({"depth": -4}, {"rates": [1, -2]}, {"rate": math.nan}, {"shift": -math.inf}):
        with pytest.raises(ConfigError, match="^model[.]"):
            check_model(model, {"depth": 2, "shift": -2.0})


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (Range(1), (1, 1e9), (0, math.inf, math.nan), "at least 1"),
        (Range(0, open_low=True), (1e-9,), (0, -1), "above 0"),
        (Range(0, 1, open_high=True), (0, 0.999), (1, -0.1), "0 to below 1"),
        (Range(0), (0,), (-1,), "0 or more"),
    ],
)
def test_ranges(allowed, inside, outside, text):
    assert all(map(allowed.holds, inside)) and not any(map(allowed.holds, outside)) and allowed.text() == text
