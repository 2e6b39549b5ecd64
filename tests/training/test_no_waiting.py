"""A training step asks nothing of its device: on a fake accelerator, where reading a value or moving one is seen."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lavita.training import callbacks
from lavita.training.budget import Clock, Limit
from lavita.training.callbacks import Diverged, FiniteGuard, OnTheWay, Scalars, StepLog

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "lavita-v1", "lavita-v2", "lavita-v3", "lavita-v4", "lavita-v1 with images", "dit frame", "dit joint", "vdt",
    "pvdm autoencoder", "pvdm adversarial", "pvdm diffusion", "pvdm after a clip", "mcvd", "mcvd spatin",
    "pvdm autoencoder", "pvdm adversarial", "pvdm diffusion", "pvdm after a clip",
    "lvdm autoencoder", "lvdm adversarial", "lvdm diffusion",
    "lvdm interpolation", "lvdm prediction", "video-ldm image", "video-ldm decoder", "video-ldm temporal", "codec",
]  # fmt: skip


@pytest.fixture(scope="module")
def waits() -> dict[str, list[str]]:
    """What the step of each stage waits for."""
    command = [sys.executable, str(Path(__file__).with_name("fake_device.py")), *NAMES]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_backward_pass_wait_for_nothing(name, waits):
    assert waits[name] == []


def test_waiting_is_noticed(waits):
    to_host, to_device, looked = waits["what waits"]
    assert "_to_copy" in to_host and "_to_copy" in to_device and "_local_scalar_dense" in looked


class Late:
    """Stands in for values on their way: they are there when the device has reached `now`."""

    now = 0

    def __init__(self, values: Tensor) -> None:
        self.values, self.made = values.tolist(), Late.now

    def read(self) -> list[float]:
        assert self.made < Late.now, "read in the step that computes it: the host would wait"
        return self.values


@pytest.fixture
def accelerator(monkeypatch):
    """CPU tensors that are treated as an accelerator's."""
    monkeypatch.setattr(callbacks, "is_ahead", lambda value: True)
    monkeypatch.setattr(callbacks, "OnTheWay", Late)
    monkeypatch.setattr(Late, "now", 0)


class Logger:
    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, float], float]] = []

    def log_metrics(self, values: dict[str, float], step: float) -> None:
        self.lines.append((values, step))


def steps(losses: list[float], folder: Path, monkeypatch) -> tuple[FiniteGuard, Logger, list[tuple]]:
    """The callbacks of as many steps, in fit_stage's order, a loss every second one in the logs."""
    monkeypatch.setattr(callbacks, "LOSS_EVERY", 2)
    reports: list[tuple] = []
    guard, logger = FiniteGuard(), Logger()
    clock = Clock(Limit(4 * len(losses)), lambda *line: reports.append(line), -1.0, lambda _: guard.newest)
    log, scalars = StepLog(folder / "steps.csv", clock), Scalars(clock)
    log.begin("train")
    trainer = SimpleNamespace(world_size=1, accumulate_grad_batches=1, global_step=0, loggers=[logger])
    module = SimpleNamespace(stage_name="train", num_clips_seen=0, clip_cost=Fraction(1))
    clock.on_train_start(trainer, module)
    for loss in losses:
        trainer.global_step += 1
        outputs = {"loss": torch.tensor(loss), "mse": torch.tensor(loss / 2)}
        for callback in (guard, clock, log, scalars):
            callback.on_train_batch_end(trainer, module, outputs, {"clip_index": torch.arange(4)}, 0)
        Late.now += 1
    for callback in (guard, clock, log, scalars):
        callback.on_train_end(trainer, module)
    return guard, logger, reports


def test_logs_are_those_of_a_device_that_is_waited_for(tmp_path, monkeypatch, request):
    """Same lines of steps.csv but for the seconds, same scalars at the same clips; nothing is read in its own step."""
    losses, found = [0.5, 0.25, 0.125, 2.0, 3.0], []
    for kind in ("cpu", "accelerator"):
        if kind == "accelerator":
            request.getfixturevalue("accelerator")
        folder = tmp_path / kind
        folder.mkdir()
        guard, logger, reports = steps(losses, folder, monkeypatch)
        lines = [line.split(",") for line in (folder / "steps.csv").read_text().splitlines()]
        found.append(([line[:3] + line[4:] for line in lines], logger.lines, guard.newest))
        shown = [line[3] for line in reports]
        if kind == "cpu":
            assert shown == losses
        else:
            assert math.isnan(shown[0]) and shown[1:] == losses[:-1]  # those of the step before
    assert found[0] == found[1]
    assert [line[3] for line in found[0][0][1:]] == ["", "0.25", "", "2.0", ""]
    assert found[0][1] == [
        ({"train/loss": value, "train/mse": value / 2}, clips) for value, clips in ((0.25, 8), (2, 16))
    ]


@pytest.mark.parametrize("at", [1, 3, 5])
def test_the_error_names_the_step_of_its_loss(at, tmp_path, monkeypatch, accelerator):
    """It comes one step late, or at the end, and says which step and clips it was."""
    losses = [1.0] * 5
    losses[at - 1] = math.nan
    with pytest.raises(Diverged, match=rf"^loss is nan at step {at} of stage train \({4 * (at - 1)} clips seen\)$"):
        steps(losses, tmp_path, monkeypatch)
    assert Late.now == min(at, 5)


def test_on_a_cpu_values_are_there_at_once():
    assert OnTheWay(torch.tensor([1.5, 2.0], requires_grad=True)).read() == [1.5, 2.0]
