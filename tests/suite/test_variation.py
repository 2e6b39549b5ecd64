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
    "values, spread, may",
    [
        ([100.0, 104.0, 96.0, 101.0], 0.08, 0.16),
        ([29.3, 40.8], 11.5 / 35.05, 0.66),
        ([1.25, 1.25, 1.25], 0.0, 0.0),
        ([0.0, 0.0], 0.0, 0.0),
        ([-3.0, -1.0], 1.0, 2.0),
        ([-1.0, 1.0], None, None),
        ([1000.0, 1000.001], 1e-6, 0.01),  # never rounded down to nothing
        ([95.0, 105.0], 0.1, 0.2),  # 20 % exactly is not 21 %
    ],
)
def test_the_spread_is_a_share_of_the_middle_and_twice_that_is_allowed(values, spread, may):
    found = spread_of(values)
    assert found == (None if spread is None else pytest.approx(spread)) and allowed(found) == may


def test_the_average_range_of_four_is_as_stated():
    """2.06 standard deviations, from the distribution of order statistics: the integral of 1 - F^4 - (1 - F)^4."""
    from scipy.integrate import quad
    from scipy.stats import norm

    assert quad(lambda x: 1 - norm.cdf(x) ** 4 - norm.sf(x) ** 4, -9, 9)[0] == pytest.approx(2.059, abs=1e-3)


def rows_file(folder, name, fvd, protocol="p", untrained=400.0):
    """A rows.csv of one run: two scores, a size that is neither better nor worse, and one that was not made."""
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
    write_rows(folder / name, rows)
    return folder / name


def test_each_score_has_a_row_with_the_lowest_and_the_highest(tmp_path):
    files = [rows_file(tmp_path, f"{number}.csv", fvd) for number, fvd in enumerate((100.0, 104.0, 96.0))]
    found = varied(files)
    assert [astuple(one) for one in found] == [
        ("ucf101 (embedded)", "dit-s0", "train", "fvd", "2048", 3, 96.0, 104.0, 0.08, 0.16, 1, "c0"),
        ("ucf101 (embedded)", "dit-s0", "untrained", "fvd", "0", 3, 400.0, 400.0, 0.0, 0.0, 1, "c0"),
    ]
    assert table(found).splitlines()[2:] == [
        "| dit-s0 | train | fvd | 96.00 | 104.0 | 8.00% | ± 16% |",
        "| dit-s0 | untrained | fvd | 400.0 | 400.0 | 0.00% | ± 0% |",
    ]
    (first, _) = csv.DictReader(io.StringIO(as_csv(found)))
    assert (first["lowest"], first["allowed"], first["commit"]) == ("96.0", "0.16", "c0")


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
    chosen = settings([1, 2], ["avx2", "sse"])
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
        (["--threads", "1,x"], "--threads: got '1,x', wanted whole numbers from 1 on"),
        (["--threads", "0"], "--threads: got '0'"),
        (["--instructions", "avx"], "--instructions"),
        (["--tier", "small"], "--tier small: wanted --full with it"),
    ],
)
def test_wrong_arguments_are_one_line(script, words, said):
    done = script("variation")("--suite", "ucf101", *words)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
