"""One of the processes of test_two_processes.py: trains small stages and writes what came of them.

python tests/soak/together.py OUT CASE...
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lavita.codecs.training import CodecTraining
from lavita.config.plan import make_plan
from lavita.config.schema import ComputeConfig
from lavita.data.clips import ClipShare
from lavita.methods import discriminators
from lavita.parity.cases import fill_by_formula
from lavita.training import budget, callbacks, distributed
from lavita.training.budget import Limit
from lavita.training.callbacks import Diverged
from lavita.training.fit import fit_stage
from lavita.training.stage import TrainedStage

BATCH, STEPS, HELDOUT = 4, 10, 3
GOLDEN = Path(__file__).parents[1] / "golden" / "test_golden.py"


def golden() -> Any:
    """The small systems of the golden losses, in batches of BATCH."""
    spec = importlib.util.spec_from_file_location("golden", GOLDEN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.TRAIN = replace(module.TRAIN, batch_clips=BATCH, ema_decay=0.9, warmup_clips=12)
    module.SYSTEMS["lavita-images"] = ("lavita-v1", module.LAVITA | {"joint_images": 2}, 4, 8, 0)
    module.SYSTEMS["codec"] = (None, None, 2, 16, 0)
    return module


def build(system: str) -> TrainedStage:
    """The stage of a system, or the suite's own autoencoder, with formula weights."""
    if system != "codec":
        return golden().build(system)
    (experiment,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], ["codec.width=16", "codec.norm_groups=4"])
    module = CodecTraining(experiment.codec, golden().TRAIN, 0)
    fill_by_formula(module)
    return module.train()


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
    module = build(system)
    kind = type(module)
    clips = clips_of(system, module, poisoned)
    heldout = heldout_of(clips)
    clips.read.clear()
    stop = BATCH * STEPS if limit is None else 10**6 * BATCH
    share = ClipShare(0, stop, BATCH // compute.passes(BATCH), distributed.rank(), distributed.world())
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


def diverge(system: str, compute: ComputeConfig, folder: Path) -> dict[str, Any]:
    """The message of a run in which the last clip of the second batch, the last process's, is not finite."""
    try:
        fit("dit-frame", compute, folder, poisoned=2 * BATCH - 1)
    except Diverged as error:
        return {"said": str(error)}
    return {"said": "nothing"}


def by_seconds(system: str, compute: ComputeConfig, folder: Path) -> dict[str, Any]:
    """Steps and seconds of half a second. A twentieth of one goes by with every look at the clock, however fast the
    machine is; for all but the first process time goes a hundred times as fast.
    """
    looks = itertools.count()
    pace = 0.05 if distributed.is_first() else 5.0
    budget.time = SimpleNamespace(monotonic=lambda: pace * next(looks))
    _, _, done = fit("dit-frame", compute, folder, limit=Limit(None, 0.5))
    budget.time = time
    return {"steps": done.steps, "seconds": done.seconds, "heldout": done.heldout_losses}


def apart(system: str, compute: ComputeConfig, folder: Path) -> dict[str, Any]:
    """The adversarial stage with each process's own batch statistics, which must be noticed."""
    shared, discriminators.share_statistics = discriminators.share_statistics, lambda *_: None
    result = train("pvdm-adversarial", compute, folder)
    discriminators.share_statistics = shared
    return result


SPECIAL = {"diverge": diverge, "by-seconds": by_seconds, "apart": apart}


def run(case: str, out: Path) -> dict[str, Any]:
    """A case, STRATEGY_PASSES_DTYPE_SYSTEM, by as many processes as there are."""
    strategy, passes, dtype, system = case.split("_")
    a_pass = BATCH // (int(passes) * distributed.world())
    compute = ComputeConfig("32-true", False, 1, a_pass, passes == "2", distributed.world(), 1, strategy, False)
    usual, every = torch.get_default_dtype(), callbacks.LOSS_EVERY
    torch.set_default_dtype(getattr(torch, dtype))
    callbacks.LOSS_EVERY = 1
    try:
        return SPECIAL.get(system, train)(system, compute, out / case)
    finally:
        torch.set_default_dtype(usual)
        callbacks.LOSS_EVERY = every


def main(out: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    torch.save({case: run(case, out) for case in cases}, out / f"rank{distributed.rank()}.pt")
    distributed.end_group()
    assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
