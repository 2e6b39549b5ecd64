"""benchmarks/speed.py as a user meets it."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lavita.data.video import write_video
from lavita.nn.blocks import ModulatedBlock

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--size", "XS", "--frames", "2", "--side", "4", "--steps", "2", "--threads", "1"]
LATTE = """
import torch
from lavita.methods.lavita.model import Lavita, LavitaConfig

class Latte(torch.nn.Module):
    def __new__(cls, input_size, patch_size, in_channels, hidden_size, depth, num_heads, num_frames):
        shape = (1, depth, hidden_size, num_heads, patch_size, num_frames, in_channels, input_size)
        return WRAP(Lavita(LavitaConfig(*shape)))
"""


@pytest.fixture
def call(script):
    threads = torch.get_num_threads()
    yield script("speed")
    torch.set_num_threads(threads)


def checkout(folder: Path, text: str) -> str:
    """A folder laid out like an official checkout."""
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "latte.py").write_text(text)
    return str(folder)


def test_csv_alone_on_standard_output_has_a_row_a_contestant(call, tmp_path):
    official = checkout(tmp_path / "latte", LATTE.replace("WRAP", ""))
    done = call("model", *TINY, "--official", official, "--csv", "-", "--checkpoint-activations")
    assert done.code == 0, done.err
    rows = {row["contestant"]: row for row in csv.DictReader(io.StringIO(done.out))}
    assert list(rows) == ["lavita", "plain", "official"]
    for row in rows.values():
        low, median, high = (float(row[f"seconds_{key}"]) for key in ("low", "median", "high"))
        assert 0 < float(row["seconds_fastest"]) <= low <= median <= high
        assert float(row["flops_per_second"]) == pytest.approx(int(row["flops_step"]) / median, rel=1e-12)
        assert float(row["ratio"]) == pytest.approx(median / float(rows["lavita"]["seconds_median"]), rel=1e-12)
        rate, floor = float(row["matmul_flops_per_second"]), float(row["floor_seconds"])
        assert floor * rate == pytest.approx(int(row["flops_step"]), rel=1e-12)
        assert (row["steps"], row["threads"], row["checkpoint_activations"]) == ("2", "1", "true")
        assert row["hardware"] and row["torch"] and row["commit"]
    assert rows["official"]["flops_step"] == rows["lavita"]["flops_step"] < rows["plain"]["flops_step"]


def test_table_and_file(call, tmp_path):
    done = call("model", *TINY, "--variant", "4", "--precision", "bf16-mixed", "--csv", str(tmp_path / "speed.csv"))
    assert done.code == 0, done.err
    assert "variant 4 XS/2, 5 blocks" in done.out and "bf16-mixed" in done.out and "1 threads" in done.out
    assert len((tmp_path / "speed.csv").read_text().splitlines()) == 3


def test_other_arithmetic_is_timed_beside(call, monkeypatch):
    """bfloat16 and compiled blocks, each a row; what is compiled is what is said to be."""
    compiled: list[object] = []
    plain = torch.compile

    def watched(function, **options):
        compiled.append(function)
        return plain(function, **options, backend="eager")

    monkeypatch.setattr(torch, "compile", watched)
    done = call("model", *TINY, "--arithmetic", "--csv", "-")
    assert done.code == 0, done.err
    rows = {row["contestant"]: row for row in csv.DictReader(io.StringIO(done.out))}
    assert {name: row["precision"] for name, row in rows.items()} == {
        "lavita": "32-true", "plain": "32-true", "bf16": "bf16-mixed", "compiled": "32-true",
        "bf16, compiled": "bf16-mixed",
    }  # fmt: skip
    blocks = [function for function in compiled if isinstance(getattr(function, "__self__", None), ModulatedBlock)]
    assert len(blocks) == 2 * 6  # XS has six
    assert all(float(row["draws_ahead_seconds"]) < float(row["draws_seconds"]) for row in rows.values())


def test_another_function_is_refused(call, tmp_path):
    official = checkout(tmp_path / "latte", LATTE.replace("WRAP", "Twice") + TWICE)
    done = call("model", *TINY, "--official", official)
    assert done.code == 2 and "official is another function" in done.err and not done.out


TWICE = """
class Twice(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network
        self.load_state_dict = network.load_state_dict
    def forward(self, x, t):
        return 2 * self.network(x, t)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model"),
        (["modle"], "modle"),
        (["model", "--size", "M"], "--size: got 'M', allowed XXS, XS, S, B, L, XL"),
        (["model", "--variant", "5"], "--variant: got 5, allowed 1, 2, 3, 4"),
        (["model", "--steps", "0"], "--steps: got 0"),
        (["model", "--step", "3"], "--step"),
        (["model", "--side", "9"], "does not divide"),
        (["model", "--device", "tpu"], "--device: got 'tpu'"),
        (["model", "--device", "cuda:99"], "take cpu"),
        (["model", "--precision", "half"], "bf16-mixed"),
        (["model", *TINY, "--official", "/nowhere"], "models/latte.py"),
    ],
)
def test_bad_arguments_are_one_line(call, arguments, message):
    done = call(*arguments)
    assert done.code == 2 and not done.out
    assert message in done.err and len(done.err.splitlines()) == 1


def test_a_package_that_the_checkout_needs_is_named(call, tmp_path):
    done = call("model", *TINY, "--official", checkout(tmp_path / "latte", "import no_such_package\n"))
    assert done.code == 2 and "no_such_package" in done.err and len(done.err.splitlines()) == 1


def test_help_needs_no_torch():
    script = "import sys; sys.argv = ['speed.py', 'model', '--help']; import runpy\n"
    script += "try:\n    runpy.run_path('benchmarks/speed.py', run_name='__main__')\nexcept SystemExit as e:\n"
    script += "    assert not e.code and 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--checkpoint-activations" in done.stdout


def test_data_measures_video_files_beside_whole_decodes(call, tmp_path):
    """Two small files: the loader's clips are checked against whole decodes before anything is timed."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    for number, split in enumerate(("train", "test")):
        frames = np.stack([np.roll(noise, t + number, 0) for t in range(60)])
        write_video(tmp_path / "data" / split / f"{number}.mp4", frames, 25, lossless=False)
    small = ["--resolutions", "16,32", "--rounds", "2", "--long-frames", "60"]
    done = call(
        "data", str(tmp_path / "data"), "--dataset", "faceforensics", *small, "--csv", str(tmp_path / "speed.csv")
    )
    assert done.code == 0, done.err
    with open(tmp_path / "speed.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["resolution"], row["video"]) for row in rows] == [
        (side, video) for side in ("16", "32") for video in ("0", "1", "mean")
    ]
    for row in rows:
        assert all(float(row[f"{name}_seconds"]) > 0 for name in ("whole", "loader", "latents", "resize"))
    for key in ("loader_ratio", "latents_ratio"):
        assert float(rows[2][key]) == pytest.approx((float(rows[0][key]) + float(rows[1][key])) / 2)
    assert "decode at most 57 (counted), not 60" in done.out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["."], "no tree of ucf101"),
        ([".", "--resolutions", "60"], "--resolutions: got '60', wanted multiples of 8"),
        ([".", "--rounds", "0"], "--rounds: got 0"),
    ],
)
def test_data_refuses_what_it_can_not_measure(call, tmp_path, arguments, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("data", *arguments)
    assert done.code == 2 and words in done.err and len(done.err.splitlines()) == 1
