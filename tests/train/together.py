"""One of the processes of test_two_processes.py: trains small stages and writes what came of them.

python tests/train/together.py OUT COMPUTE CASE...   COMPUTE is devices:strategy:passes; a case is one below.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lavita.config import ComputeConfig
from lavita.data.share import ClipShare
from lavita.train import budget, ranks, step_log
from lavita.train.budget import Limit
from lavita.train.fit import fit_stage
from lavita.train.guard import Diverged
from lavita.train.module import TrainedStage

BATCH, STEPS, HELDOUT = 4, 10, 3
GOLDEN = Path(__file__).parents[1] / "golden" / "test_golden.py"


def golden() -> Any:
    """The small systems of the golden losses, in batches of BATCH."""
    spec = importlib.util.spec_from_file_location("golden", GOLDEN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.TRAIN = replace(module.TRAIN, batch_clips=BATCH, ema_decay=0.9, warmup_clips=12)
    module.SYSTEMS["lavita-images"] = ("lavita-v1", module.LAVITA | {"joint_images": 2}, 4, 8, 0)
    return module


class Clips(Dataset):
    """Smooth clips by their index; `read` are the indices that this process asked for."""

    def __init__(self, frames: int, side: int, images: int, poisoned: int | None = None) -> None:
        self.frames, self.side, self.images, self.poisoned = frames, side, images, poisoned
        self.read: list[int] = []

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read.append(index)
        generator = torch.Generator().manual_seed(index)
        coarse = torch.randn(self.frames + self.images, 3, 4, 4, generator=generator)
        pictures = torch.tanh(torch.nn.functional.interpolate(coarse, self.side, mode="bilinear"))
        if index == self.poisoned:
            pictures = pictures * float("nan")
        item = {"video": pictures[: self.frames], "label": index % 3, "clip_index": index}
        if self.images:
            item |= {"images": pictures[self.frames :], "image_labels": torch.arange(self.images) % 3}
        return item


def clips_of(system: str, module: TrainedStage, poisoned: int | None = None) -> Clips:
    _, _, frames, side, _ = golden().SYSTEMS[system]
    return Clips(frames, side, module.joint_images, poisoned)


def heldout_of(clips: Clips) -> dict[str, Tensor]:
    """A few clips that training does not see."""
    return torch.utils.data.default_collate([clips[10**6 + i] for i in range(HELDOUT)])


def fit(system: str, compute: ComputeConfig, folder: Path, limit: Limit | None = None, poisoned: int | None = None):
    """Train a system; the module, the clips read for training, and what fit_stage returns."""
    module = golden().build(system)
    kind = type(module)
    clips = clips_of(system, module, poisoned)
    heldout = heldout_of(clips)
    clips.read.clear()
    stop = BATCH * STEPS if limit is None else 10**6 * BATCH
    share = ClipShare(0, stop, BATCH // compute.accumulate_batches, ranks.rank(), ranks.world())
    loader = DataLoader(clips, batch_size=share.part, sampler=share)
    limit = limit or Limit(module.clip_cost * BATCH * STEPS)
    done = fit_stage(module, loader, limit, folder, heldout, lambda *_: None, compute)
    assert type(module) is kind and not module.training
    return module, clips.read, done


def train(system: str, compute: ComputeConfig, folder: Path) -> dict[str, Any]:
    """Clips read, weights, held-out losses and clips counted of ten steps."""
    module, read, done = fit(system, compute, folder)
    # Weights and what rides with them: the running statistics of PVDM's discriminators.
    state = {name: value.clone() for name, value in module.state_dict().items()}
    return {"read": read, "state": state, "heldout": done.heldout_losses, "clips": done.clips, "steps": done.steps}


def diverge(compute: ComputeConfig, folder: Path) -> dict[str, Any]:
    """The message of a run in which the last clip of the second batch, the last process's, is not finite."""
    try:
        fit("dit-frame", compute, folder, poisoned=2 * BATCH - 1)
    except Diverged as error:
        return {"said": str(error)}
    return {"said": "nothing"}


def by_seconds(compute: ComputeConfig, folder: Path) -> dict[str, Any]:
    """Steps and seconds of a run of one second; for all but the first process time goes a hundred times as fast."""
    clock = time.monotonic
    if not ranks.is_first():
        budget.time = type("Fast", (), {"monotonic": staticmethod(lambda: 100 * clock())})
    _, _, done = fit("dit-frame", compute, folder, limit=Limit(None, 1.0))
    budget.time = time
    return {"steps": done.steps, "seconds": done.seconds, "heldout": done.heldout_losses}


def main(out: Path, compute: str, cases: list[str]) -> None:
    torch.set_num_threads(1)
    step_log.LOSS_EVERY = 1
    devices, strategy, passes = compute.split(":")
    setting = ComputeConfig("32-true", 1, int(passes), False, int(devices), 1, strategy)
    results = {}
    for case in cases:
        folder, (system, _, dtype) = out / case, case.partition("@")
        torch.set_default_dtype(getattr(torch, dtype or "float32"))
        special = {"diverge": diverge, "by_seconds": by_seconds}.get(system)
        results[case] = special(setting, folder) if special else train(system, setting, folder)
    torch.save(results, out / f"rank{ranks.rank()}.pt")
    ranks.end_group()
    assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
