"""What a command line says reaches its key as it was written: by the key's type, never as YAML."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavita.api import as_overrides
from lavita.config.compose import compose, flat_keys, load_method, load_suite, read_experiment
from lavita.config.overrides import apply_overrides, protocol_changes, typed
from lavita.config.plan import read_config, write_config
from lavita.config.schema import ConfigError
from tests.fuzzing import fuzzed

SUITE, METHOD = load_suite("ucf101"), load_method("lavita-v1")
CONFIG = compose(SUITE, "demo", METHOD, True)
KEYS = flat_keys(CONFIG)
QUICK = ("--suite", "ucf101", "--tier", "demo", "--methods", "lavita-v1", "--dry-run")
NO_YAML = ("[1", "@x", "%x", "{a", "*x", "&x", "!x", "a: b", "a #b", "#b", "- a", "| a", "'a", '"a', "a,b", "~", "1e5")
STRANGE = "[]{}#:&*!|>'\"%@`,-? \t\n~$/a1"


def plan(*overrides: str):
    """As make_plan's, of one method, without reading every file again."""
    return read_experiment(SUITE, "demo", METHOD, "", 0, apply_overrides(CONFIG, overrides))


@pytest.mark.parametrize("text", NO_YAML)
def test_a_text_key_takes_the_raw_text(text):
    """Case override-yaml: these were tracebacks, cut paths or mappings."""
    assert plan(f"data.root={text}").data.root == text
    assert plan("codec.kind=kl", f"codec.path={text}").codec.path == text


@fuzzed(40)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from(STRANGE), min_size=1).filter(str.strip))
def test_every_text_arrives_and_is_kept(tmp_path_factory, text):
    if text == "null" or "${" in text:
        return
    experiment = plan(f"data.root={text}")
    assert experiment.data.root == text
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    write_config(experiment, file)
    assert read_config(file).data.root == text


def test_an_empty_value_is_none():
    """Case root-empty and its kin: no key takes nothing for something."""
    for key in KEYS:
        for text in ("", " "):
            with pytest.raises(ConfigError, match=f"{key} is given but empty"):
                apply_overrides(CONFIG, [f"{key}={text}"])


def test_an_unset_variable_trains_on_nothing(script):
    """Case root-empty: a run on synthetic videos ended with status 0."""
    done = script("run")(*QUICK[:-1], "data.root=")
    assert done.code == 2 and "data.root is given but empty" in done.err and done.err.count("\n") == 1
    assert plan("data.root=null").data.root is None  # written so on purpose


@pytest.mark.parametrize("override", ["data.root=${oc.env:HOME}", "codec.path=${x", "train.learning_rate=${y}"])
def test_references_are_refused(override):
    with pytest.raises(ConfigError, match="a reference; write the value itself"):
        plan(override)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("12", int, 12), ("-1", int, -1), ("010", int, 10), ("3_200", int, 3200), ("1.5", int, "1.5"),
        ("1e-4", float, 1e-4), ("3", float, 3.0), ("fast", float, "fast"), ("null", int | None, None),
        ("null", str | None, None), ("null", str, "null"), ("12", str, "12"), ("true", bool, True),
        ("False", str | bool, False), ("auto", str | bool, "auto"), ("4", int | str, 4), ("auto", int | str, "auto"),
        ("[1,2]", tuple[int, ...], [1, 2]), ("1, 2", tuple[int, ...], [1, 2]), ("[a,b]", tuple[str, ...], ["a", "b"]),
        ('["a,b"]', tuple[str, ...], ["a,b"]), ("[1", tuple[int, ...], "[1"), ("[]", tuple[int, ...], []),
        ("yes", bool, "yes"), ("nan", str, "nan"), ('{"a":1}', tuple[str, ...], ['{"a":1}']),
    ],
)  # fmt: skip
def test_values_by_type(text, hint, value):
    found = typed(text, hint)
    assert found == value and type(found) is type(value)


@fuzzed(100)
@given(st.sampled_from(KEYS), st.text(max_size=12) | st.sampled_from(NO_YAML) | st.floats().map(str))
def test_no_value_is_more_than_one_line(key, text):
    """Any text for any key: a plan, or one line that names the key."""
    try:
        plan(f"{key}={text}")
    except ConfigError as error:
        said = str(error)
        assert "\n" not in said.replace(text, "") and (key.partition(".")[2] in said or key == "protocol.name")


def test_evaluate_reads_them_alike(script, tmp_path):
    done = script("evaluate")(
        "--real", tmp_path, "--generated", tmp_path, "--protocol", "suite", "--offline", "protocol.ddof=[1"
    )
    assert done.code == 2 and "protocol.ddof: got '[1'" in done.err and done.err.count("\n") == 1
    assert protocol_changes(["protocol.n=48", "protocol.split=train", "protocol.windows_per_video=null"]) == {
        "n": 48, "split": "train", "windows_per_video": None,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="did you mean 'protocol.ddof'"):
        protocol_changes(["protocol.dof=1"])


@pytest.mark.parametrize("value", ["@x", "a: b", "1e5"])
def test_the_library_says_texts_as_the_command_line_does(value):
    assert as_overrides({"data.root": value}) == [f"data.root={value}"]
    given = {"data": {"root": None, "flip": True}, "budget.clips": 64, "train.learning_rate": 1e-5, "model.m": [1, 2]}
    assert as_overrides(given) == [
        "data.root=null", "data.flip=true", "budget.clips=64", "train.learning_rate=1e-05",
        f"model.m={json.dumps([1, 2])}",
    ]  # fmt: skip
