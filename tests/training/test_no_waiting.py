"""A training step asks nothing of its device: on a fake accelerator, where reading a value or moving one is seen."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.data import default_collate

from lavita.training import callbacks
from lavita.training.ahead import WithDraws, requests_of
from lavita.training.budget import Clock, Limit
from lavita.training.callbacks import Diverged, FiniteGuard, OnTheWay, Scalars, StepLog

from .test_resume import Clips, build

DEVICE = "fakegpu"


@pytest.fixture(scope="module")
def device() -> torch.device:
    """An accelerator without memory or kernels: every mixture of it with the CPU raises."""
    if torch._C._get_privateuse1_backend_name() != DEVICE:
        _setup_privateuseone_for_python_backend(DEVICE)
    return torch.device(DEVICE)


class Waiting(TorchDispatchMode):
    """Operations that make the host wait for a device, or a device for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        given = {leaf.device.type for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.ndim}
        result = function(*arguments, **(options or {}))
        made = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.ndim}
        if "_local_scalar_dense" in str(function) or len(given | made) > 1:
            self.found.append(str(function))
        return result


def fake(value: Any, mode: FakeTensorMode) -> Any:
    """A tensor, or a list of them, as a shape on the fake device."""
    if not isinstance(value, Tensor):
        return [fake(one, mode) for one in value]
    shape = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return mode.fake_tensor_converter.from_meta_and_device(mode, shape, torch.device(DEVICE, 0))


def on_device(module: Any, batch: dict[str, Any], mode: FakeTensorMode) -> dict[str, Any]:
    """A batch as it arrives; the module's weights, buffers and tables of the schedule are then shapes on the device, as
    after a first step."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(fake(parameter, mode), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = fake(buffer, mode)
    if hasattr(module, "schedule"):
        tables = module.schedule._placed
        there = torch.device(DEVICE, 0)
        tables |= {(name, there, dtype): fake(tables[name, cpu, dtype], mode) for name, cpu, dtype in tables}
    module.__dict__["_device"] = torch.device(DEVICE, 0)
    return {key: value if key == "clip_index" else fake(value, mode) for key, value in batch.items()}


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Written out: a device that there is not has no kernel of its own for it."""
    return torch.softmax(q @ k.transpose(-2, -1), dim=-1) @ v


NAMES = [
    "lavita-v1", "lavita-v2", "lavita-v3", "lavita-v4", "lavita-v1 with images", "dit frame", "dit joint", "vdt",
    "pvdm autoencoder", "pvdm adversarial", "pvdm diffusion", "pvdm after a clip", "codec",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_backward_pass_wait_for_nothing(name, device, monkeypatch):
    module, clips = build(name), Clips(name, build(name))
    requests = requests_of(module, default_collate([clips[0]]))
    items = WithDraws(clips, 0, module.stage_name, requests)
    batch = default_collate([items[10], items[11]])
    module.requests = requests
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch = on_device(module, batch, mode)
        with Waiting() as waiting:
            module.training_step(batch, 0)["loss"].backward()
    assert waiting.found == []


def test_waiting_is_noticed(device):
    with FakeTensorMode():
        value = torch.zeros(2, device=DEVICE)
        with Waiting() as waiting:
            value.cpu()
            torch.zeros(2).to(DEVICE)
        assert len(waiting.found) == 2
        with pytest.raises(Exception, match="local_scalar_dense"):
            bool(value.sum() > 0)


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
