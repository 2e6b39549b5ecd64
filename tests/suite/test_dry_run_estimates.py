"""What a dry run says of disk, sampling and finished runs, against arithmetic written here and a tiny finished run."""

import csv
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from lavita.config.plan import make_plan
from lavita.data.manifest import COLUMNS as MANIFEST
from lavita.suite.estimates import lines_of

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "budget.clips=96", "codec.clips=32", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4",
    "protocol.n_real=8", "protocol.n_generated=8", "data.latent_cache=true",
]  # fmt: skip
SUITE = ["--suite", "ucf101"]
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *SUITE]
CHAINED = ["model.previous_clip=true", "sampling.num_clips_chained=2", "protocol.frames=16"]
# An estimate must be enough, and not more than twice too much.
ENOUGH, TOO_MUCH = 1, 2


def planned(script, *arguments: object) -> dict[str, dict[str, str]]:
    """Lines of a dry run of one method by stage; the CSV is all that is printed."""
    return {row["stage"]: row for row in lines_read(script, *arguments)}


def lines_read(script, *arguments: object) -> list[dict[str, str]]:
    done = script("run")(*SUITE, "--dry-run", "--csv", "-", *arguments)
    assert done.code == 0, done.err
    return list(csv.DictReader(io.StringIO(done.out)))


class Rate:
    """A machine that trains at 1e9 and evaluates at 4e9 FLOPs per second."""

    def seconds(self, flops: float) -> float:
        return flops / 1e9

    def forward_seconds(self, flops: float) -> float:
        return flops / 4e9


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one latent method from a latent cache: its folder and the arguments of the same dry run."""
    base = tmp_path_factory.mktemp("run")
    arguments = ["--tier", "demo", "--methods", "lavita-v1", "--out", str(base / "out"), *TINY]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*COMMAND, *arguments, "--cache", str(base / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return base, arguments


def test_disk_is_enough_and_not_twice_too_much(finished, script):
    base, arguments = finished
    plan, cache = planned(script, *arguments), base / "cache"
    kinds = ("latents", "codec", "extractor", "real", "split", "reconstruction")
    fitted = [path for kind in kinds for path in cache.glob(f"{kind}-*")]
    assert len(fitted) == 7  # two splits
    real = size_of(base / "out") + sum(map(size_of, fitted))
    assert ENOUGH <= sum(int(row["est_disk_bytes"]) for row in plan.values()) / real < TOO_MUCH
    cell = base / "out" / "cells" / "lavita-v1-s0"
    weights = (cell / "checkpoint.safetensors").stat().st_size
    assert ENOUGH <= int(plan["train"]["est_disk_bytes"]) / weights < 1.02
    # 8 clips of noise, which FFV1 can't make smaller: in a file each they are up to a tenth larger than raw.
    grids = sum((cell / f"{name}.gif").stat().st_size for name in ("samples", "untrained"))
    sprite = (cell / "samples.sprite.webp").stat().st_size * (1 + 4 / 3)  # once more in the page, as base64
    assert 0.9 <= int(plan["sample"]["est_disk_bytes"]) / (size_of(cell / "samples") + grids + sprite) < TOO_MUCH


def test_the_latent_cache_is_counted_to_the_byte(finished, script):
    """48 training videos of 72 frames, mirrored too: mean and log-variance of 16 channels of 2 x 2 in float32."""
    base, arguments = finished
    plan = planned(script, *arguments)
    (values,) = (base / "cache").glob("latents-*/moments.f32")
    without = planned(script, *arguments, "data.latent_cache=false")
    counted = int(plan["codec"]["est_disk_bytes"]) - int(without["codec"]["est_disk_bytes"])
    assert counted == values.stat().st_size == 4 * 2 * 16 * 2 * 2 * (48 * 72) * 2


def test_done_is_said_of_the_same_configuration_in_the_same_folder(finished, script, tmp_path):
    _, arguments = finished
    assert {row["done"] for row in planned(script, *arguments).values()} == {"true"}
    assert {row["done"] for row in planned(script, *arguments, "train.learning_rate=0.003").values()} == {"false"}
    assert {row["done"] for row in planned(script, *arguments, "--seeds", "1").values()} == {"false"}
    # Where the data lies is no part of it, and the plan of another folder knows nothing of this one.
    assert {row["done"] for row in planned(script, *arguments, "--out", str(tmp_path)).values()} == {"false"}


def manifest(folder: Path, *videos: tuple[str, str, str]) -> None:
    """A manifest as prepare.py writes it, of (split, frames, status)."""
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, MANIFEST, restval="x")
        writer.writeheader()
        writer.writerows({"split": split, "frames": frames, "status": status} for split, frames, status in videos)


@pytest.mark.parametrize(("suite", "directions"), [("ucf101", 2), ("skytimelapse", 1)])
def test_frames_of_the_cache_are_those_of_the_manifest(script, tmp_path, suite, directions):
    """Stable Diffusion's latents of 256 pixels: float16 mean and log-variance of 4 channels of 32 x 32."""
    manifest(tmp_path, ("train", "100", "ok"), ("train", "50", "ok"), ("heldout", "70", "ok"), ("train", "", "empty"))
    arguments = ["--suite", suite, "--methods", "lavita-v1", "model.size=S", f"data.root={tmp_path}"]
    plans = [planned(script, *arguments, f"data.latent_cache={on}") for on in ("true", "false")]
    with_cache, without = (int(plan["codec"]["est_disk_bytes"]) for plan in plans)
    assert with_cache - without == 150 * directions * 2 * 2 * 4 * 32 * 32


def test_a_cache_of_frames_that_nobody_counted_is_not_estimated(script, tmp_path):
    arguments = ["--methods", "lavita-v1", "model.size=S", "data.latent_cache=true", f"data.root={tmp_path}"]
    plan = planned(script, *arguments)
    assert plan["codec"]["est_disk_bytes"] == "" and int(plan["train"]["est_disk_bytes"]) > 0
    (tmp_path / "manifest.csv").write_text("something,else\n1,2\n")
    done = script("run")(*SUITE, "--dry-run", *arguments)
    assert done.code == 2 and "not a manifest of prepare.py" in done.err


@pytest.mark.parametrize(
    ("suite", "method", "overrides", "evaluations"),
    [
        ("ucf101", "lavita-v1", [], 25),
        ("ucf101-class", "lavita-v1", [], 2 * 25),  # guidance: with and without the class
        ("ucf101-class", "pvdm", ["sampling.steps=40"], 2 * 40),
        ("ucf101", "dit", ["sampling.steps=10"], 10),
        (
            "skytimelapse",
            "pvdm",
            ["model.previous_clip=true", "sampling.num_clips_chained=2", "protocol.frames=16"],
            50,
        ),
    ],
)
def test_sampling_is_forward_passes_times_evaluations_times_clips(suite, method, overrides, evaluations):
    (experiment,) = make_plan(suite, "demo", [method], [0], overrides)
    lines = {line.stage: line for line in lines_of(experiment, Rate())}
    seconds = lines["train"].flops_forward / 4e9 * evaluations * experiment.protocol.n_generated
    assert lines["sample"].sampling_seconds == pytest.approx(seconds)
    assert lines["sample"].seconds == pytest.approx(2 * seconds)  # the untrained network's clips too
    assert lines["train"].seconds == pytest.approx(lines["train"].flops_train * lines["train"].steps * 8 / 1e9)


def test_a_budget_in_seconds_is_the_seconds_of_a_stage(script):
    (experiment,) = make_plan("ucf101", "demo", ["pvdm"], [0], ["budget.currency=seconds", "budget.seconds=60"])
    stages = [line for line in lines_of(experiment, None) if line.stage in ("autoencoder", "autoencoder-gan", "train")]
    assert sum(line.seconds for line in stages) == pytest.approx(60)
    assert all(line.clips is None and line.steps is None for line in stages)
    overrides = ["budget.currency=seconds", "budget.seconds=60"]
    done = script("run")(*SUITE, "--tier", "demo", "--methods", "pvdm", "--dry-run", *overrides)
    assert done.code == 0 and "without stages that end after so many seconds" in done.out


def test_a_plan_for_a_device_says_passes_hours_and_what_does_not_fit(script):
    """S/2 at the published size, on a device that takes a quarter of a batch at a time, and on one that takes none."""
    arguments = ["--methods", "lavita-v1", "model.size=S", "compute.precision=32-true", "--dry-run"]
    said = script("run")(*SUITE, *arguments, "--memory", 24).out.splitlines()
    assert said[-1].startswith("fits a device of 24 GiB, of which 0.85 are planned with: largest peak ")
    assert "lavita-v1: train 10 clips a pass (" in said[-3] and " hours, " in said[-3]
    none = script("run")(*SUITE, *arguments, "--memory", 4).out.splitlines()
    assert none[-1].startswith("does not fit a device of 4 GiB, of which 0.85 are planned with: ")
    assert "lavita-v1, train needs " in none[-1] and "smaller sampling.batch_clips" in none[-1]
    for wrong in ("0", "-1", "nan"):
        assert "--memory: got" in script("run")(*SUITE, "--dry-run", f"--memory={wrong}").err
    assert "--memory goes with --dry-run" in script("run")(*SUITE, "--memory", 80).err


def on_terminal(*arguments: str) -> str:
    """What run.py prints where its output is a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen([*COMMAND, *arguments], stdout=theirs, cwd=ROOT, env=environment)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait(60) == 0
    return said.decode().replace("\r\n", "\n")


def test_a_terminal_gets_a_summary_and_a_pipe_does_not(script, tmp_path):
    # Of its own, since `make demo` leaves finished runs in the usual results folder, and the summary says so.
    arguments = ["--tier", "demo", "--methods", "lavita-v1,dit", "--seeds", "0,1", "--out", str(tmp_path / "out")]
    table = script("run")(*SUITE, *arguments, "--dry-run").out.splitlines()
    said = on_terminal(*arguments, "--dry-run").splitlines()
    assert len(table) > 12 and table[0] == said[0]
    # Last, in both: whether this machine has what it needs. Above the totals a line of each method.
    assert table[-1].startswith("fits a device of ") and said[-1].startswith("fits a device of ")
    assert [line.split(":")[0] for line in table[-4:-2]] == ["lavita-v1", "dit"]
    assert "train 8 clips a pass" in table[-4] and "GiB on disk" in table[-4]
    assert table[-2].startswith("4 runs, about ") and said[len(table) - 2].startswith("4 runs: ")
    assert "GiB on disk" in said[len(table) - 2] and said[len(table) - 1].startswith("largest: ")
    lines = lines_read(script, *arguments)
    # What the runs share counts once in the totals: both methods and seeds use one autoencoder.
    of = {stage: [row for row in lines if row["stage"] == stage] for stage in ("codec", "train")}
    flops = sum(int(row["flops_train_per_clip"]) * int(row["clips"]) for row in [of["codec"][0], *of["train"]])
    assert f"about {flops * 1e-12:.4g} TFLOPs" in table[-2]


def test_a_task_beside_is_sampled_and_scored_too():
    """Video LDM's frames by themselves: a third set of clips."""
    found = [
        {line.stage: line for line in lines_of(experiment, Rate())}
        for frozen in ("true", "false")
        for experiment in make_plan("ucf101", "demo", ["video-ldm"], [0], [f"model.freeze_spatial={frozen}"])
    ]
    sample, score = ([lines[stage] for lines in found] for stage in ("sample", "score"))
    assert [one.seconds / one.sampling_seconds for one in sample] == pytest.approx([3, 2])
    assert score[0].clips - score[1].clips == 64 and score[0].disk == pytest.approx(1.5 * score[1].disk)
    assert sample[0].disk > sample[1].disk
