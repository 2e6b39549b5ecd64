"""How far scores differ between threads and instruction sets: spread, what is allowed, and what runs are told."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from dataclasses import astuple
from types import SimpleNamespace

import pytest

from lavita.results.rows import Row, write_rows
from lavita.suite import variation
from lavita.suite.variation import INSTRUCTIONS, Setting, allowed, as_csv, run_all, settings, spread_of, table, varied


@pytest.mark.parametrize(
    "values, spread",
    [
        ([100.0, 104.0, 96.0], 0.04),
        ([90.0, 110.0], 20 / 2**0.5 / 100),
        ([1.25, 1.25, 1.25], 0.0),
        ([0.0, 0.0], 0.0),
        ([-3.0, -1.0], 2**0.5 / 2),
        ([-1.0, 1.0], None),
    ],
)
def test_the_spread_is_a_share_of_the_mean(values, spread):
    assert spread_of(values) == (None if spread is None else pytest.approx(spread))


@pytest.mark.parametrize(
    "spreads, may",
    [
        ([0.04], 0.16),
        ([0.03, 0.05], 0.17),  # 4 x the root of 0.0017 = 0.165
        ([0.0, 0.0], 0.0),
        ([1e-6], 0.01),  # never rounded down to nothing
        ([0.05], 0.2),  # 20 % exactly is not 21 %
        ([], None),
    ],
)
def test_allowed_is_four_times_the_pooled_spread(spreads, may):
    assert allowed(spreads) == may


def test_few_pairs_differ_by_more_than_four_deviations():
    """One in two hundred, as stated: the difference of two normal values has the deviation of one times root 2."""
    from scipy.stats import norm

    assert 2 * norm.sf(4 / 2**0.5) == pytest.approx(1 / 200, rel=0.1)


def rows_file(folder, name, fvd, protocol="p", untrained=400.0, other=None):
    """A rows.csv of one run: two scores, a size that is neither better nor worse, and one that was not made; other is
    the score of a second method.
    """
    known = {
        "cell": "dit-s0",
        "method": "dit",
        "dataset": "ucf101 (embedded)",
        "protocol_hash": protocol,
        "commit": "c0",
    }
    rows = [
        Row(stage="train", metric="fvd", value=fvd, lower_is_better=True, clips_seen=2048, **known),
        Row(stage="untrained", metric="fvd", value=untrained, lower_is_better=True, clips_seen=0, **known),
        Row(stage="train", metric="bytes", value=3.0, **known),
        Row(stage="train", metric="is", value=None, lower_is_better=False, **known),
    ]
    if other is not None:
        known |= {"cell": "vdt-s0", "method": "vdt"}
        rows.append(Row(stage="train", metric="fvd", value=other, lower_is_better=True, clips_seen=2048, **known))
    write_rows(folder / name, rows)
    return folder / name


def test_each_score_has_a_row_with_the_lowest_and_the_highest(tmp_path):
    files = [rows_file(tmp_path, f"{number}.csv", fvd) for number, fvd in enumerate((100.0, 104.0, 96.0))]
    found = varied(files)
    assert [astuple(one) for one in found] == [
        ("ucf101 (embedded)", "dit-s0", "train", "fvd", "2048", 3, 96.0, 104.0, 0.04, 0.16, 1, "c0"),
        ("ucf101 (embedded)", "dit-s0", "untrained", "fvd", "0", 3, 400.0, 400.0, 0.0, 0.0, 1, "c0"),
    ]
    assert table(found).splitlines()[2:] == [
        "| dit-s0 | train | fvd | 96.00 | 104.0 | 4.00% | ± 16% |",
        "| dit-s0 | untrained | fvd | 400.0 | 400.0 | 0.00% | ± 0% |",
    ]
    (first, _) = csv.DictReader(io.StringIO(as_csv(found)))
    assert (first["lowest"], first["allowed"], first["commit"]) == ("96.0", "0.16", "c0")


def test_methods_share_what_is_allowed_of_a_metric(tmp_path):
    """Spreads of 4 and 2 %: the root of (16 + 4) / 2 is 3.16, four times that 12.6 %."""
    scored = ((100.0, 50.0), (104.0, 51.0), (96.0, 49.0))
    found = varied([rows_file(tmp_path, f"{fvd}.csv", fvd, other=other) for fvd, other in scored])
    assert [(one.cell, one.stage, round(one.spread, 9), one.allowed) for one in found] == [
        ("dit-s0", "train", 0.04, 0.13),
        ("dit-s0", "untrained", 0.0, 0.0),
        ("vdt-s0", "train", 0.02, 0.13),
    ]


def test_extractors_of_their_own_show_as_several_protocols(tmp_path):
    files = [rows_file(tmp_path, name, 1.0, protocol=name) for name in ("a", "b")]
    assert [one.protocols for one in varied(files)] == [2, 2]


def test_a_run_that_lacks_a_score_is_named(tmp_path):
    files = [rows_file(tmp_path, "a", 1.0), rows_file(tmp_path, "b", 1.0, untrained=None)]
    with pytest.raises(ValueError, match="b: no score dit-s0 untrained fvd, which .*a has"):
        varied(files)


def test_each_setting_is_a_run_with_its_own_folders_threads_and_environment(tmp_path, monkeypatch):
    called = []

    def run(command, stdout, stderr, env):
        called.append((command, env))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(variation.subprocess, "run", run)
    chosen = settings("avx2-1,sse-1,avx2-2,sse-2")
    assert chosen == [Setting(1, "avx2"), Setting(1, "sse"), Setting(2, "avx2"), Setting(2, "sse")]
    files = run_all(chosen, ["--suite", "ucf101"], tmp_path, lambda line: None)
    assert files == [tmp_path / name / "rows.csv" for name in ("avx2-1", "sse-1", "avx2-2", "sse-2")]
    for one, (command, env) in zip(chosen, called, strict=True):
        assert f"compute.threads={one.threads}" in command and "--workers" not in command
        assert {name: env[name] for name in INSTRUCTIONS[one.instructions]} == INSTRUCTIONS[one.instructions]
    caches = [command[command.index("--cache") + 1] for command, _ in called]
    assert len(set(caches)) == 4 and not set(caches) & {str(path.parent) for path in files}


def test_a_run_that_fails_is_one_line(tmp_path, monkeypatch):
    def run(command, stdout, stderr, env):
        stdout.write("much\nrun.py: no data\n")
        return SimpleNamespace(returncode=2)

    monkeypatch.setattr(variation.subprocess, "run", run)
    with pytest.raises(ValueError, match="^native-1: the run ended with status 2: run.py: no data$"):
        run_all([Setting(1, "native")], [], tmp_path, lambda line: None)


@pytest.mark.parametrize("name, wanted", [("sse", "DEFAULT"), ("avx2", "AVX2")])
def test_torch_heeds_the_instructions(name, wanted):
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    kept = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
    call = [sys.executable, "-c", code]
    native = subprocess.run(call, capture_output=True, text=True, env=kept).stdout.strip()
    if name == "avx2" and native == "DEFAULT":
        pytest.skip("this processor has no AVX2")
    if native not in ("DEFAULT", "AVX2", "AVX512"):
        pytest.skip(f"a processor of another kind ({native})")
    done = subprocess.run(call, capture_output=True, text=True, env=kept | INSTRUCTIONS[name])
    assert done.stdout.strip() == wanted


@pytest.mark.parametrize(
    "words, said",
    [
        (["--settings", "sse-1,avx2-x"], "--settings: got 'avx2-x', wanted native, avx2, sse with a number of threads"),
        (["--settings", "sse-0"], "--settings: got 'sse-0'"),
        (["--settings", "avx-1"], "--settings: got 'avx-1'"),
        (["--settings", "sse-1"], "--settings: got one, wanted two or more to compare"),
        (["--tier", "small"], "--tier small: wanted --full with it"),
    ],
)
def test_wrong_arguments_are_one_line(script, words, said):
    done = script("variation")("--suite", "ucf101", *words)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
