"""The whole path on tiny numbers: two methods, synthetic data, tables, resuming, a failing run, sampling again."""

import base64
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavita.data.clip_folder import MOST_BYTES, read_clips, read_manifest

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "budget.clips=96", "codec.clips=32", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4",
    "protocol.n_real=8", "protocol.n_generated=8",
]  # fmt: skip


def run(folder: Path, *arguments: str, script: str = "run.py") -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "rows.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One run of a latent method and of the one with its own first stage; the others look at what it left."""
    base = tmp_path_factory.mktemp("run")
    arguments = ["--suite", "ucf101-class", "--tier", "demo", "--methods", "lavita-v1,pvdm", "--out", str(base / "out")]
    arguments += ["--cache", str(base / "cache"), *TINY]
    process = run(base, *arguments)
    return base, arguments, process


def test_completes(done):
    _, _, process = done
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Traceback" not in process.stdout + process.stderr


def test_rows(done):
    base, _, _ = done
    found = rows(base / "out")
    metrics = {"fvd_embedded_n8_f8", "kvd_embedded_n8_f8", "is_embedded_n8_f8"}
    for method in ("lavita-v1", "pvdm"):
        for stage in ("untrained", "train"):
            mine = [row for row in found if row["method"] == method and row["stage"] == stage]
            by_split = {"fvd-train_embedded_n8_f8", "fvd-heldout_embedded_n8_f8", "memorisation_embedded_n8_f8"}
            assert {row["metric"] for row in mine} == metrics | (by_split if stage == "train" else set())
            assert {row["clips_seen"] for row in mine} == {"96" if stage == "train" else "0"}
    assert {row["conditioning"] for row in found} == {"class"}
    assert {row["guidance"] for row in found} == {"2.0"}
    assert {row["division"] for row in found} == {"closed"}
    assert {row["dataset"] for row in found} == {"ucf101 (embedded)"}
    assert all(np.isfinite(float(row["value"])) for row in found)
    assert {row["protocol"] for row in found} == {"demo[n=8] (8 windows of 8 videos)"}


def test_budget_is_spent_exactly_and_the_codec_is_charged(done):
    base, _, _ = done
    stages = {
        method: {
            s["name"]: s["clips"]
            for s in json.loads((base / f"out/cells/{method}-s0/record.json").read_text())["stages"]
        }
        for method in ("lavita-v1", "pvdm")
    }
    assert stages["lavita-v1"] == {"codec": 32, "latent cache": 0, "train": 64}
    assert sum(stages["pvdm"].values()) == 96 and "codec" not in stages["pvdm"]


def test_run_folder(done):
    base, _, _ = done
    for method in ("lavita-v1", "pvdm"):
        cell = base / "out" / "cells" / f"{method}-s0"
        for name in ("config.yaml", "log.txt", "record.json", "checkpoint.safetensors", "samples.gif", "untrained.gif"):
            assert (cell / name).is_file(), name
        assert (cell / "samples.sprite.webp").stat().st_size <= MOST_BYTES
        assert list((cell / "tensorboard").rglob("events.out*"))
        clips = read_clips(cell / "samples")
        assert clips.shape == (8, 8, 32, 32, 3) and clips.dtype == np.uint8
        assert [clip["seed"] for clip in read_manifest(cell / "samples")["clips"]] == list(range(8))


def test_the_overview_has_a_line_for_the_real_clips_and_for_each_row(done):
    base, _, process = done
    with Image.open(base / "out" / "overview.webp") as picture:
        assert picture.n_frames == 8 and picture.size[0] > 8 * 66 and picture.size[1] == 3 * 68
    assert "samples side by side: overview.webp" in process.stdout


def test_the_report_holds_every_picture_as_it_is(done):
    base, _, process = done
    page = (base / "out" / "report.html").read_text()
    pictures = [*base.glob("out/cells/*/*.sprite.webp"), *base.glob("out/shared/*/*.sprite.webp")]
    assert len(pictures) == 5  # clips of both, pvdm's autoencoder, real clips, the suite's autoencoder
    assert all(base64.b64encode(path.read_bytes()).decode() in page for path in pictures)
    digest = process.stdout.split()[-1]
    assert page.count(digest) >= 3 and f"--digest {digest}" in page
    assert str(base) not in page and "0 fail" in page


def test_the_same_command_skips_what_is_finished(done):
    base, arguments, _ = done
    before = (base / "out" / "rows.csv").read_bytes()
    again = run(base, *arguments)
    assert again.returncode == 0
    assert again.stdout.count("finished before") == 2
    assert (base / "out" / "rows.csv").read_bytes() == before


def test_sampling_by_itself_repeats_the_runs_clips(done, tmp_path):
    base, _, _ = done
    cell = base / "out" / "cells" / "lavita-v1-s0"
    process = run(
        base,
        "--checkpoint",
        str(cell),
        "--out",
        str(tmp_path / "one"),
        "--clips",
        "2",
        "--seed-start",
        "3",
        script="sample.py",
    )
    assert process.returncode == 0, process.stderr
    alone, together = read_clips(tmp_path / "one"), read_clips(cell / "samples")[3:5]
    # Same seeds in another batch: float32 rounds differently, so a value may move by one grey level, rarely.
    difference = np.abs(alone.astype(int) - together.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() <= 1e-3
    refused = run(base, "--checkpoint", str(cell), "--out", str(tmp_path / "one"), "--clips", "2", script="sample.py")
    assert refused.returncode == 2 and "not an empty folder" in refused.stderr
    wrong = ["--checkpoint", str(cell), "--out", str(tmp_path / "two"), "--clips", "1", "--classes", "nonsense"]
    assert "unknown class 'nonsense'" in run(base, *wrong, script="sample.py").stderr


def test_a_failing_run_leaves_the_others(done, tmp_path):
    """PVDM refuses an ancestral sampler; the other method must still be tabled, and the exit status say 1."""
    base, _, _ = done
    arguments = ["--suite", "ucf101", "--tier", "demo", "--methods", "lavita-v1,pvdm", "--out", str(tmp_path / "out")]
    process = run(base, *arguments, "--cache", str(base / "cache"), *TINY, "sampling.sampler=ddpm")
    assert process.returncode == 1, process.stdout + process.stderr
    found = rows(tmp_path / "out")
    (failed,) = [row for row in found if row["method"] == "pvdm"]
    assert failed["status"] == "failed" and "ddim" in failed["reason"]
    assert (failed["metric"], failed["value"]) == ("", "")
    assert {row["status"] for row in found if row["method"] == "lavita-v1"} == {"ok"}
    assert "ddim" in (tmp_path / "out" / "table.md").read_text()


def test_budget_that_does_not_go_is_refused_before_anything_starts(done, tmp_path):
    base, _, _ = done
    arguments = ["--suite", "ucf101", "--tier", "demo", "--out", str(tmp_path / "out"), "--cache", str(base / "cache")]
    process = run(base, *arguments, *TINY, "budget.clips=97")
    assert process.returncode == 2
    assert "65 clips is not a multiple of the batch of 8" in process.stderr
    assert not (tmp_path / "out" / "rows.csv").exists()


def test_more_clips_than_the_data_has_is_refused(done, tmp_path):
    base, _, _ = done
    arguments = [
        "--suite",
        "skytimelapse",
        "--tier",
        "demo",
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(base / "cache"),
    ]
    process = run(base, *arguments, "protocol.n_real=1000", "protocol.n_generated=1000")
    assert process.returncode == 2
    assert "952" in process.stderr  # 48 training videos of one window each


def test_a_run_ended_from_outside_is_recorded(done, tmp_path):
    """The run's process is killed while it trains: the table says so, and nothing half-written counts as a result."""
    base, _, _ = done
    arguments = ["--suite", "ucf101", "--tier", "demo", "--methods", "dit", "--out", str(tmp_path / "out")]
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments, "--cache", str(base / "cache"), *TINY]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "budget.clips=80000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    for line in process.stdout:
        if line.startswith("  train "):
            # A child stands under the thread that started it.
            tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
            children = [child for task in tasks for child in task.read_text().split()]
            os.kill(int(children[0]), signal.SIGKILL)
            break
    process.stdout.read()
    assert process.wait(timeout=60) == 1
    (row,) = rows(tmp_path / "out")
    assert row["status"] == "failed" and "signal 9" in row["reason"]
    assert not list((tmp_path / "out").rglob("checkpoint.safetensors"))
