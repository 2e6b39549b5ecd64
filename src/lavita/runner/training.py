"""Trains the stages of a cell on their parts of its purse and counts what each spends."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lavita.bench.ledger import read_record, write_record
from lavita.bench.suite import CellConfig
from lavita.checkpoints import start_from
from lavita.data.catalogue import Catalogue
from lavita.data.latents import LatentCache
from lavita.data.module import ClipDataModule
from lavita.diffusion.draws import derive_seed
from lavita.kept import Kept
from lavita.runner.build import build_pretraining
from lavita.runner.events import emit, progress
from lavita.runner.flops import encoding_flops_per_clip, training_flops_per_clip
from lavita.runner.latents import opened
from lavita.runner.loading import stage_data
from lavita.runner.purse import charged, cut_purse
from lavita.runner.seeded import seed_everything
from lavita.train import ranks
from lavita.train.budget import Limit, OverBudget
from lavita.train.checkpoint import StageCheckpoints
from lavita.train.fit import fit_stage
from lavita.train.module import StagePlan, TrainedStage, VideoMethod

HELDOUT_CLIPS = 32
WEIGHTS = ".safetensors"
ENDLESS_BATCHES = 10**9  # of a stage that ends by its seconds


@dataclass
class Spent:
    """What the trained stages of a cell cost, the codec's share included."""

    stages: list[dict[str, Any]]
    heldout_losses: list[tuple[int, float]]

    def total(self, key: str) -> float:
        return sum(stage[key] for stage in self.stages)


def train(
    method: VideoMethod, cell: CellConfig, catalogue: Catalogue, shared: dict[str, Any], folder: Path, kept: Kept
) -> Spent:
    """All stages in order, each on its part of the purse; clips are counted over the run, so no stage repeats them.

    kept: where each stage keeps how far it is, and its end; what stands there is not done again.
    """
    spent = Spent([], [])
    if shared["codec"] and not method.owns_first_stage:
        spent.stages.append(shared["codec_stage"] | {"charged": True})
    latents = None
    if shared["latents"] and not method.owns_first_stage:
        latents = opened(cell, catalogue, method.codec, shared["codec_hash"], shared["latents"])
        spent.stages.append(shared["latents_stage"] | {"charged": True})
    pretraining = None
    if cell.pretraining.method:
        pretraining = build_pretraining(cell, shared["num_classes"], method.codec)
    loaders = Loaders(cell, catalogue, latents)
    stages = cut_purse(cell, method, pretraining, charged(spent.stages), loaders.flops_per_clip)
    for number, (stage, limit) in enumerate(stages, start=1):
        if limit.clips is None and number == len(stages):
            limit = Limit(None, cell.budget.seconds - spent.total("seconds"))
        stage_done(stage, limit, loaders, spent, folder, kept)
        if stage.module is pretraining:
            source = f"{spent.stages[-1]['clips']} clips of {cell.pretraining.method}"
            start_network(method, pretraining.network.state_dict(), source, folder)
    return spent


@dataclass
class Loaders:
    """The data of the stages, each on the clips after those of the one before; seen: clips drawn so far."""

    cell: CellConfig
    catalogue: Catalogue
    latents: LatentCache | None
    seen: int = 0

    def data(self, module: TrainedStage, clips: int) -> ClipDataModule:
        """The next `clips` clips as a stage reads them."""
        return stage_data(self.cell, self.catalogue, self.cell.seed, module, self.seen, self.seen + clips, self.latents)

    def from_latents(self, module: TrainedStage) -> bool:
        """Whether a stage trains from stored latents."""
        return self.latents is not None and module.reads_latents

    def flops_per_clip(self, module: TrainedStage) -> int:
        """FLOPs of one clip of a stage, counted on a real one."""
        data = self.data(module, module.train_config.batch_clips)
        batch = next(iter(data.train_dataloader())) if self.from_latents(module) else data.heldout_batch(1)
        return training_flops_per_clip(module, batch)


def stage_done(stage: StagePlan, limit: Limit, loaders: Loaders, spent: Spent, folder: Path, kept: Kept) -> None:
    """Put a stage's cost on the ledger, its module as it ends: trained now, or as it was kept."""
    name = f"end-{stage.name}"
    if kept.find(name, WEIGHTS) is None:
        seed_everything(derive_seed(loaders.cell.seed, "stage", stage.name))
        entry, losses = train_stage(stage, limit, loaders, folder, kept)
        if ranks.is_first():
            keep_end(stage, name, {"entry": entry, "heldout_losses": losses}, kept)
        ranks.barrier()
    # Read back in any case, so that a stage which follows begins from the same memory wherever this one was trained.
    stage.module.load_state_dict(load_file(kept.find(name, WEIGHTS)))
    stage.module.eval()
    found = kept.value(name)
    spent.stages.append(found["entry"])
    spent.heldout_losses = found["heldout_losses"]
    loaders.seen += found["entry"]["steps"] * found["entry"]["batch_clips"]


def keep_end(stage: StagePlan, name: str, said: dict[str, Any], kept: Kept) -> None:
    """Keep the end of a stage; its weights come last: where they are, the rest is too."""
    kept.put_value(name, said)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in stage.module.state_dict().items()}
    kept.put(name, WEIGHTS, lambda part: save_file(state, part))
    StageCheckpoints(kept, stage.name).drop()


def train_stage(
    stage: StagePlan, limit: Limit, loaders: Loaders, folder: Path, kept: Kept
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """Train one stage, or go on with it: its entry of the ledger, and its held-out losses."""
    module, cell = stage.module, loaders.cell
    batch = module.train_config.batch_clips
    drawn = ENDLESS_BATCHES * batch if limit.clips is None else int(limit.clips / module.clip_cost)
    data = loaders.data(module, drawn)
    heldout = data.heldout_batch(HELDOUT_CLIPS)
    done = fit_stage(
        module, data.train_dataloader(), limit, folder, heldout, progress, cell.compute, kept, cell.checkpoint
    )
    per_clip, drawn = loaders.flops_per_clip(module), done.steps * batch
    entry = {"name": stage.name, "clips": done.clips, "seconds": done.seconds, "flops": per_clip * drawn}
    entry |= {
        "charged": False,
        "steps": done.steps,
        "batch_clips": batch,
        "clip_cost": str(module.clip_cost),
        "flops_per_clip": per_clip,
    }
    method = isinstance(module, VideoMethod)
    if method and not module.owns_first_stage and not loaders.from_latents(module):
        entry["encoding_flops"] = encoding_flops_per_clip(module.context.codec, heldout) * drawn
    last = done.heldout_losses[-1][1]
    emit("note", text=f"{stage.name}: {done.clips} clips in {done.seconds:.1f} s; held-out loss {last:.4g}")
    return entry, done.heldout_losses


def start_network(method: VideoMethod, state: dict[str, torch.Tensor], source: str, folder: Path) -> None:
    """Start a method's network from other weights and put into the record what was taken. Raises ValueError."""
    start = start_from(method.network, state)
    if not ranks.is_first():
        return
    emit("note", text=f"{len(start.taken)} tensors taken from {source}, {len(start.left)} left at their own start")
    write_record(folder, read_record(folder) | {"initialised": asdict(start) | {"source": source}})


def check_spent(cell: CellConfig, totals: dict[str, float], spent: Spent) -> None:
    """Raise RuntimeError (OverBudget for more) unless the budget was met: exactly in clips, else by the last step."""
    currency, asked, last = cell.budget.currency, cell.budget.asked, spent.stages[-1]
    most = {"clips": 0.0, "flops": last["flops"] / last["steps"], "seconds": math.inf}[currency]
    got = totals[currency]
    if not asked <= got <= asked + most:
        kind = RuntimeError if got < asked else OverBudget
        raise kind(f"{cell.cell} spent {got:g} {currency}, its budget is {asked:g}")
