"""One of the processes of test_late_files.py, which see each other's new files only after some seconds.

python tests/training/late_files.py OUT
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lavita.config.plan import make_plan
from lavita.config.schema import CheckpointConfig, ComputeConfig
from lavita.diffusion.rng import SampleRNG
from lavita.experiment import run, train
from lavita.experiment.costs import StageFacts
from lavita.results.records import Passes
from lavita.results.resume_store import ResumeStore
from lavita.results.scores import Score
from lavita.sampling.generate import Generated, in_parts
from lavita.training import checkpoint, distributed
from lavita.training.budget import Limit
from lavita.training.checkpoint import StageCheckpoints
from lavita.training.stage import StagePlan, TrainedStage

HIDDEN_SECONDS = 3.0
(EXPERIMENT,) = make_plan("ucf101", "demo", ["dit"], [0], ["train.batch_clips=4", "compute.devices=2"])
COMPUTE = replace(EXPERIMENT.compute, strategy="ddp")


class LateStore(ResumeStore):
    """A folder on a network file system: a new file of another process is listed after HIDDEN_SECONDS, while its name
    can be opened at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.own: set[str] = set()

    def save(self, *arguments: Any) -> Path:
        path = super().save(*arguments)
        self.own.add(path.name)
        return path

    def visible(self, path: Path) -> bool:
        return path.name in self.own or time.time() - path.stat().st_mtime > HIDDEN_SECONDS

    def files(self, name: str, suffix: str) -> list[Path]:
        return [path for path in super().files(name, suffix) if self.visible(path)]

    def names(self, start: str, suffix: str) -> list[str]:
        return [name for name in super().names(start, suffix) if self.files(name, suffix)]


def parts(out: Path) -> dict[str, Any]:
    """Seven parts of three clips; then the last two again, with others of another name."""
    store, made, reports = LateStore(out / "parts"), [], []

    def make(part: slice) -> dict[str, np.ndarray]:
        made.append(part.start)
        time.sleep(0.05)
        return {"clips": np.arange(part.start, part.stop) + torch.rand(()).item()}

    def clips(name: str, total: int) -> list[float]:
        found = in_parts(name, total, 3, make, lambda done, total: reports.append((done, total)), store, shared=True)
        return [value for part in found for value in part["clips"].tolist()]

    first = clips("sample", 20)
    time.sleep(HIDDEN_SECONDS + 0.5)  # what a process sees that begins later
    before = len(made)
    again = clips("sample", 20)
    nothing_made = len(made) == before
    if distributed.is_first():
        store.delete("sample-000003", ".npz")
    more = clips("sample", 20)
    return {"clips": [first, again, more], "made": made, "nothing_made": nothing_made, "reports": reports}


class Small(TrainedStage):
    """A stage whose frozen part is no part of what is kept."""

    unchanged = ("frozen",)

    def __init__(self) -> None:
        super().__init__(replace(EXPERIMENT.train, batch_clips=4), 0)
        torch.manual_seed(0)
        self.network = nn.Linear(3, 1)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        return {"loss": self.network(self.frozen(batch["video"]))[:, 0] ** 2}


class Source:
    """Stands in for StageData: eight batches of numbers."""

    seed, compute = 0, COMPUTE
    facts = {"train": StageFacts(7, None, Passes(2, False))}

    def clips(self, module: TrainedStage, start: int, stop: int) -> SimpleNamespace:
        numbers = range(start + distributed.rank(), stop, distributed.world())
        items = [{"video": torch.full((3,), k / 9), "clip_index": k} for k in numbers]
        heldout = torch.utils.data.default_collate(items[:2])
        return SimpleNamespace(
            batch=2 * distributed.world(),
            heldout_batch=lambda count: heldout,
            train_dataloader=lambda: DataLoader(items, batch_size=2),
        )

    def compute_of(self, module: TrainedStage) -> ComputeConfig:
        return self.compute

    def flops_before(self, module: TrainedStage) -> int:
        return 0


def stage(out: Path) -> dict[str, Any]:
    """A stage that both processes train is asked to stop, resumed, and then found at its end."""
    store = LateStore(out / "stage")
    every = CheckpointConfig(every_clips=8, every_minutes=20)
    resources = train.Resources(Source(), every, out / f"logs{distributed.rank()}", store)
    plain, steps, starts = Small.training_step, [], []

    def step(module: Small, batch: dict[str, Tensor], index: int) -> Any:
        steps.append(batch["clip_index"].tolist())
        if len(steps) == 5:
            checkpoint._Asked.yes = True
        return plain(module, batch, index)

    Small.training_step = step
    newest = StageCheckpoints.newest
    StageCheckpoints.newest = lambda self: starts.append(newest(self)) or starts[-1]

    def complete() -> dict[str, Any]:
        spent, module = train.Spent([], []), Small()
        train.complete_stage(StagePlan("train", 1.0, module), Limit(32), resources, spent, [])
        return {"weights": module.network.weight[0].tolist(), "steps": spent.stages[0].steps}

    try:
        complete()
        stopped = False
    except checkpoint.Stopped:
        stopped = True
    checkpoint._Asked.yes = False
    trained = complete()
    count = len(steps)
    found = complete()
    return {
        "stopped": stopped, "trained": trained, "found": found, "seen": steps, "not_again": len(steps) == count,
        "starts": [path and path.name for path in starts],
    }  # fmt: skip


def scores(out: Path) -> dict[str, Any]:
    """The first process has the scores already, which the other one does not see: nobody samples."""
    store, calls = LateStore(out / "scores"), []

    def sample(*_: Any) -> Generated:
        calls.append("sample")
        return Generated(np.zeros((2, 1, 1, 1, 3), np.uint8), None, [0, 1], 1.0)

    run.generate, run.save_samples = sample, lambda *_, **__: None
    setup = SimpleNamespace(
        experiment=EXPERIMENT, conditions=None, method=None, shared=SimpleNamespace(classes=()), device="cpu"
    )
    score = Score(metric="m", stage="train", value=1.0, unit="", lower_is_better=True)
    scorer = SimpleNamespace(score=lambda *_: calls.append("score") or [score]) if distributed.is_first() else None
    found = [run.score_method(setup, scorer, "train", out / "samples", store) for _ in range(2)]
    return {"calls": calls, "scores": [[one.value for one in scores] for scores in found]}


def waits(out: Path) -> dict[str, Any]:
    """A wait for the first process of twice the limit of a collective, and an error of its."""
    slow = distributed.from_first(lambda: time.sleep(2 * distributed.TIMEOUT.total_seconds()) or "done")
    everyone = distributed.to_first(10 * distributed.rank())
    try:
        distributed.from_first(lambda: 1 / 0)
        said = "nothing"
    except (ZeroDivisionError, RuntimeError) as error:
        said = str(error)
    return {"slow": slow, "everyone": everyone, "said": said}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    distributed.TIMEOUT = timedelta(seconds=4)
    results = {case.__name__: case(out) for case in (parts, stage, scores, waits)}
    (out / f"rank{distributed.rank()}.json").write_text(json.dumps(results))
    distributed.end_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
