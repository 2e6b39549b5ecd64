"""YAML files: plain values, or one line with the number of the wrong line and the reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavita.config.plain_yaml import read_yaml
from lavita.config.registry import CONFIGS
from lavita.config.schema import ConfigError
from tests.fuzzing import fuzzed


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("model:\n\twidth: 8\n", 2, "cannot start any token"),
        ("model:\n  width: 8\n  width: 9\n", 3, "key 'width' twice"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, ""),
        ("a: 1\n b: 2\n", 2, "mapping values are not allowed"),
        ("a: 1\nb: *nowhere\n", 2, "undefined alias"),
        ("a: 1\nb: !!python/name:os.system\n", 2, "could not determine a constructor"),
    ],
)
def test_the_reason_and_the_line(tmp_path, text, line, reason):
    """Case yaml-message: a tab, a key written twice, and their kin."""
    path = tmp_path / "method.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_yaml(path, "method.yaml")
    said = str(error.value)
    assert said.startswith(f"method.yaml: line {line}: ") and reason in said and "\n" not in said


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\nrate: 1e-4\n")
    assert read_yaml(path) == {"name": "a", "rate": 1e-4}


def test_values_are_what_they_look_like(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("[1e-4, -2.5, .5, 1_000, 010, 1:30, 2026-12-01, true, null, ~, .inf, 0, '1e5', 1.]\n")
    wanted = [1e-4, -2.5, 0.5, 1000, "010", "1:30", "2026-12-01", True, None, None, float("inf"), 0, "1e5", 1.0]
    assert read_yaml(path) == wanted
    assert [type(value) for value in read_yaml(path)] == [type(value) for value in wanted]


@pytest.mark.parametrize(
    "text", ["a: &a [*a]\n", "a: [&a 1, *a]\n" + "".join(f"{k}: &{k} [{','.join(['*' + p] * 9)}]\n" for p, k in zip(
        "bcdefghi", "cdefghij", strict=True)).replace("c: &c", "b: &b [1]\nc: &c", 1)]
)  # fmt: skip
def test_lists_that_never_end_are_refused(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="more than 100000 values"):
        read_yaml(path)


def test_our_own_files_read_as_another_reader_does():
    from omegaconf import OmegaConf

    for path in sorted(CONFIGS.rglob("*.yaml")):
        assert read_yaml(path) == OmegaConf.to_container(OmegaConf.load(path), resolve=False), path


@fuzzed(150)
@given(st.binary(max_size=40) | st.text("ab: -[]{}&*!|>'\"%@`#\n\t10.", max_size=40).map(str.encode))
def test_any_bytes_are_values_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read_yaml(path), dict | list)
    except ConfigError as error:
        assert str(path) in str(error) and "\n" not in str(error).replace("\\n", "")
