"""speed.py score: what it measures agrees, and what it says; nothing here depends on how fast a machine is."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lavita.metrics.distances import frechet_distance
from lavita.speed import score

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--clips", "60", "--features", "6", "--resamples", "40", "--rounds", "3"]


@pytest.fixture
def call(script, monkeypatch):
    """speed.py score, as if its libraries had been started with one thread."""
    for name in score.THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        done = script("speed")("score", *arguments)
        return done.code, done.out, done.err

    return run


def test_rows_of_the_distance_and_of_resamples(call):
    code, out, errors = call(*TINY, "--only", "frechet,resamples", "--csv", "-")
    assert code == 0, errors
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["group"], row["contestant"]) for row in rows] == [
        ("frechet", "ours"), ("frechet", "scipy sqrtm"), ("resamples", "halves, quarters"),
    ]  # fmt: skip
    ours, other, resamples = rows
    low, median, high = (float(other[f"seconds_{key}"]) for key in ("low", "median", "high"))
    assert 0 < float(other["seconds_fastest"]) <= low <= median <= high
    assert float(other["ratio"]) == pytest.approx(median / float(ours["seconds_median"]), rel=1e-12)
    assert float(ours["ratio"]) == 1 and ours["relative_difference"] == ""
    assert 0 <= float(other["relative_difference"]) < 1e-9
    assert abs(float(ours["self_distance"])) < 1e-12 and other["self_distance"]
    assert (resamples["rounds"], resamples["resamples"], resamples["threads"]) == ("1", "40", "1")
    assert ours["numpy"] and ours["scipy"] and ours["hardware"] and ours["commit"]


def test_the_table_says_the_same(call, tmp_path):
    code, out, errors = call(*TINY, "--only", "frechet", "--csv", str(tmp_path / "score.csv"))
    assert code == 0, errors
    assert "Frechet distance of 60 x 6 features" in out and "features of half the rank from themselves" in out
    assert "1 threads" in out and "scipy sqrtm" in out and "interval" not in out
    assert len((tmp_path / "score.csv").read_text().splitlines()) == 3


def test_every_group_fits_the_table(call, monkeypatch):
    def group(options):
        return score.Group({"ours": lambda: None, "plain": lambda: None}, 2, 2e-6)

    monkeypatch.setitem(score.GROUPS, "i3d", group)
    code, out, errors = call("--only", "i3d")
    assert code == 0, errors
    assert "I3D features of one clip" in out and "differs by 2e-06" in out


def test_scipys_route_is_the_closed_form_and_features_have_the_rank_asked_for():
    x, y = score.features(500, 5, 5, 0), score.features(400, 5, 5, 1)
    assert score.scipy_distance(x, y) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    thin = score.features(500, 8, 3, 2)
    assert np.linalg.matrix_rank(thin - thin.mean(axis=0)) == 3
    variances = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    # 500 samples know a variance to sqrt(2 / 500) = 6 per cent.
    assert variances == pytest.approx(1 / np.arange(1, 6), rel=0.25)


def test_contestants_that_differ_are_refused(call, monkeypatch):
    monkeypatch.setattr(score, "scipy_distance", lambda x, y: 1.001 * frechet_distance(x, y))
    code, out, errors = call(*TINY, "--only", "frechet")
    assert code == 2 and not out and "scipy sqrtm is another function: results differ by 1.0e-03" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clips", "7"], "--clips: got 7, wanted at least 8"),
        (["--resamples", "39"], "--resamples: got 39, wanted at least 40"),
        (["--rounds", "0"], "--rounds: got 0"),
        (["--only", "frechet,kid"], "--only: got 'kid', allowed frechet, resamples, i3d"),
        (["--threads", "2"], "--threads: numpy is loaded; start with OPENBLAS_NUM_THREADS=2"),
    ],
)
def test_bad_arguments_are_one_line(call, arguments, message):
    code, out, errors = call(*arguments)
    assert code == 2 and not out
    assert message in errors and len(errors.splitlines()) == 1


def test_help_needs_no_numpy_so_that_threads_can_be_set():
    script = "import sys; sys.argv = ['speed.py', 'score', '--help']; import runpy\n"
    script += "try:\n    runpy.run_path('benchmarks/speed.py', run_name='__main__')\nexcept SystemExit as e:\n"
    script += "    assert not e.code and 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--resamples" in done.stdout
