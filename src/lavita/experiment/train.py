"""Trains the stages of a cell on their parts of its purse and counts what each spends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lavita.codecs.base import Codec
from lavita.config.compose import Experiment
from lavita.data.catalogue import Catalogue
from lavita.data.datamodule import ClipDataModule
from lavita.data.latent_cache import LatentCache, LatentKey, fill_latents, videos_hash
from lavita.diffusion.rng import derive_seed, seed_everything
from lavita.executors.heartbeat import emit, progress
from lavita.experiment.budget import shared_cost, split_budget
from lavita.experiment.costs import encoding_flops_per_clip, training_flops_per_clip
from lavita.methods.base import VideoMethod
from lavita.methods.build import build_pretraining
from lavita.methods.checkpoints import start_from
from lavita.results.records import StageRecord, StartingWeights, read_record, write_record
from lavita.results.resume_store import ResumeStore
from lavita.results.shared import SharedArtifacts
from lavita.results.typed_json import from_json, to_json
from lavita.training import distributed
from lavita.training.budget import Limit, OverBudget
from lavita.training.checkpoint import StageCheckpoints
from lavita.training.fit import fit_stage
from lavita.training.stage import StagePlan, TrainedStage


def stage_data(
    cell: Experiment,
    catalogue: Catalogue,
    seed: int,
    module: TrainedStage,
    start: int,
    stop: int,
    latents: LatentCache | None = None,
    whole: bool = False,
) -> ClipDataModule:
    """Training clips start .. stop - 1 under a seed with what the stage wants beside them, in batches of one pass: this
    process's part of each, or whole ones.

    latents: stored moments, for a stage that reads latents. Raises ValueError for a batch that cannot be cut so.
    """
    d, batch, passes = cell.data, module.train_config.batch_clips, cell.compute.accumulate_batches
    check_batch(cell, module, start)
    return ClipDataModule(
        with_past(catalogue, cell, module),
        frames=d.frames,
        interval=d.interval,
        resolution=d.resolution,
        flip=d.flip,
        seed=seed,
        batch=batch // passes,
        start=start,
        stop=stop,
        num_workers=d.num_workers,
        cache_bytes=d.cache_bytes,
        images=module.joint_images,
        past=module.past_frames,
        frame_choice=d.frame_choice,
        latents=latents if module.reads_latents else None,
        rank=0 if whole else distributed.rank(),
        world=1 if whole else distributed.world(),
    )


def check_batch(cell: Experiment, module: TrainedStage, start: int) -> None:
    """Raise ValueError unless the stage's batch goes into its passes and processes, all of them in the same turn."""
    batch, passes, processes = module.train_config.batch_clips, cell.compute.accumulate_batches, cell.compute.processes
    if batch % passes:
        raise ValueError(
            f"compute.accumulate_batches: {passes} does not divide the batch of {batch} clips of {cell.method}"
        )
    if batch % (passes * processes):
        raise ValueError(
            f"compute.devices: {processes} processes with {passes} passes each do not divide the batch of {batch} "
            f"clips of {cell.method}"
        )
    if module.turns > 1 and start % batch and passes * processes > 1:
        raise ValueError(
            f"stage {module.stage_name} of {cell.method} takes turns by batches of {batch} clips and begins at clip "
            f"{start}: several passes or processes would be in different turns; set compute.devices, nodes and "
            "accumulate_batches to 1"
        )


def with_past(catalogue: Catalogue, cell: Experiment, module: TrainedStage) -> Catalogue:
    """The catalogue without videos too short for a clip and the frames before it, where such may be left out.

    Raises ValueError where they may not, or where none is left.
    """
    d = cell.data
    try:
        return catalogue.long_enough(d.frames + module.past_frames, d.interval, d.short_videos, d.frame_choice)
    except ValueError as error:
        note = f" ({module.past_frames} of these frames are those before each clip of {cell.method})"
        raise ValueError(f"{error}{note if module.past_frames else ''}") from None


def latent_key(cell: Experiment, catalogue: Catalogue, codec: Codec, codec_hash: str) -> LatentKey:
    """What the cache of a cell's setting must hold."""
    d, p = cell.data, cell.protocol
    return LatentKey(
        codec=codec_hash,
        data=catalogue.fingerprint,
        videos=videos_hash(catalogue.split("train")),
        resolution=d.resolution,
        crop=f"{p.crop}, {p.resize_filter}",
        interval=d.interval,
        mirrored=d.flip,
        channels=2 * codec.latent_channels,
        side=codec.latent_side(d.resolution),
    )


def encoder(codec: Codec) -> Callable[[Tensor], Tensor]:
    """The codec's posterior moments of frames on the CPU, computed where the codec lies."""
    device = next(codec.parameters(), torch.empty(0)).device

    @torch.no_grad()
    def encode(frames: Tensor) -> Tensor:
        return codec.moments(frames.to(device)).float().cpu()

    return encode


def fill(
    cell: Experiment, catalogue: Catalogue, codec: Codec, codec_hash: str, cache: Path
) -> tuple[Path, StageRecord]:
    """Where the cache lies and the stage that it stands for on the ledger. Raises ValueError."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    key, began, last = latent_key(cell, catalogue, codec, codec_hash), time.monotonic(), 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 1:
            last = time.monotonic()
            progress("latent cache", done, total)

    encode = encoder(codec.eval().to(device))
    cost = fill_latents(cache, key, catalogue.split("train"), encode, lambda text: emit("note", text=text), report)
    emit("note", text=f"latent cache ready after {time.monotonic() - began:.1f} s, {cost['bytes'] / 2**20:.1f} MiB")
    one = torch.zeros(1, 1, 3, cell.data.resolution, cell.data.resolution)
    flops = encoding_flops_per_clip(codec, {"video": one}) * cost["frames"]
    stage = StageRecord("latent cache", clips=0, seconds=cost["seconds"], flops=flops, bytes=cost["bytes"])
    return cache / key.name(), stage


def opened(cell: Experiment, catalogue: Catalogue, codec: Codec, codec_hash: str, folder: Path) -> LatentCache:
    """The cache of a cell, tried on one video against the codec. Raises StaleLatents."""
    videos = catalogue.split("train")
    latents = LatentCache(folder, latent_key(cell, catalogue, codec, codec_hash), videos)
    latents.check_frame(videos[cell.seed % len(videos)], encoder(codec))
    return latents


HELDOUT_CLIPS = 32
WEIGHTS = ".safetensors"
ENDLESS_BATCHES = 10**9  # of a stage that ends by its seconds


@dataclass
class Spent:
    """What the trained stages of a cell cost, the codec's share included."""

    stages: list[StageRecord]
    heldout_losses: list[tuple[float, float]]

    def total(self, unit: str) -> float:
        return sum(getattr(stage, unit) for stage in self.stages)


def train(
    method: VideoMethod,
    cell: Experiment,
    catalogue: Catalogue,
    shared: SharedArtifacts,
    folder: Path,
    kept: ResumeStore,
) -> Spent:
    """All stages in order, each on its part of the purse; clips are counted over the run, so no stage repeats them.

    kept: where each stage keeps how far it is, and its end; what stands there is not done again.
    """
    spent = Spent([], [])
    if shared.codec_stage and not method.owns_first_stage:
        spent.stages.append(replace(shared.codec_stage, charged=True))
    latents = None
    if shared.latents and shared.latents_stage and not method.owns_first_stage:
        latents = opened(cell, catalogue, method.codec, shared.codec_hash, shared.latents)
        spent.stages.append(replace(shared.latents_stage, charged=True))
    pretraining = None
    if cell.pretraining.method:
        pretraining = build_pretraining(cell, shared.num_classes, method.codec)
    loaders = Loaders(cell, catalogue, latents)
    stages = split_budget(cell, method, pretraining, shared_cost(spent.stages), loaders.flops_per_clip)
    for number, (stage, limit) in enumerate(stages, start=1):
        if limit.clips is None and number == len(stages):
            limit = Limit(None, cell.budget.seconds - spent.total("seconds"))
        later = [other.name for other, _ in stages[number:]]
        stage_done(stage, limit, loaders, spent, folder, kept, later)
        if stage.module is pretraining:
            source = f"{spent.stages[-1].clips} clips of {cell.pretraining.method}"
            start_network(method, pretraining.network.state_dict(), source, folder)
    return spent


@dataclass
class Loaders:
    """The data of the stages, each on the clips after those of the one before; seen: clips drawn so far."""

    cell: Experiment
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


def stage_done(
    stage: StagePlan,
    limit: Limit,
    loaders: Loaders,
    spent: Spent,
    folder: Path,
    kept: ResumeStore,
    later: Sequence[str],
) -> None:
    """Put a stage's cost on the ledger, its module as it ends: trained now, or as it was kept. later: stages' names."""
    name = f"end-{stage.name}"
    end, found = kept.load(name, WEIGHTS), kept.load_value(name)
    if end is None or found is None:
        if distributed.is_first():
            forget(kept, later)
        seed_everything(derive_seed(loaders.cell.seed, "stage", stage.name))
        entry, losses = train_stage(stage, limit, loaders, folder, kept)
        if distributed.is_first():
            keep_end(stage, name, {"entry": to_json(entry), "heldout_losses": losses}, kept)
        distributed.barrier()
        end, found = kept.load(name, WEIGHTS), kept.load_value(name)
    # Read back in any case, so that a stage which follows begins from the same memory wherever this one was trained.
    stage.module.load_state_dict(load_file(end))
    stage.module.eval()
    done = from_json(StageRecord, found["entry"], name)
    spent.stages.append(done)
    spent.heldout_losses = [(clips, loss) for clips, loss in found["heldout_losses"]]
    loaders.seen += done.steps * done.batch_clips


def forget(kept: ResumeStore, stages: Sequence[str]) -> None:
    """Let go of stages that come after one whose end was damaged: the logs have their lines in the order of time."""
    for stage in stages:
        StageCheckpoints(kept, stage).delete()
        for suffix in (WEIGHTS, ".json"):
            kept.delete(f"end-{stage}", suffix)


def keep_end(stage: StagePlan, name: str, said: dict[str, Any], kept: ResumeStore) -> None:
    """Keep the end of a stage; its weights come last: where they are, the rest is too."""
    kept.save_value(name, said)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in stage.module.state_dict().items()}
    kept.save(name, WEIGHTS, lambda part: save_file(state, part))
    StageCheckpoints(kept, stage.name).delete()


def train_stage(
    stage: StagePlan, limit: Limit, loaders: Loaders, folder: Path, kept: ResumeStore
) -> tuple[StageRecord, list[tuple[float, float]]]:
    """Train one stage, or resume it: its entry of the ledger, and its held-out losses."""
    module, cell = stage.module, loaders.cell
    batch = module.train_config.batch_clips
    drawn = ENDLESS_BATCHES * batch if limit.clips is None else int(limit.clips / module.clip_cost)
    data = loaders.data(module, drawn)
    heldout = data.heldout_batch(HELDOUT_CLIPS)
    slots = StageCheckpoints(kept, stage.name)
    start = slots.newest()
    if start is not None:
        emit("note", text=f"{stage.name}: goes on from {slots.clips_of(start):g} clips")
    done = fit_stage(
        module, data.train_dataloader(), limit, folder, heldout, progress, cell.compute, kept, cell.checkpoint
    )
    per_clip, drawn = loaders.flops_per_clip(module), done.steps * batch
    entry = StageRecord(
        stage.name,
        done.clips,
        done.seconds,
        per_clip * drawn,
        steps=done.steps,
        batch_clips=batch,
        clip_cost=str(module.clip_cost),
        flops_per_clip=per_clip,
    )
    method = isinstance(module, VideoMethod)
    if method and not module.owns_first_stage and not loaders.from_latents(module):
        entry = replace(entry, encoding_flops=encoding_flops_per_clip(module.context.codec, heldout) * drawn)
    last = done.heldout_losses[-1][1]
    emit("note", text=f"{stage.name}: {done.clips} clips in {done.seconds:.1f} s; held-out loss {last:.4g}")
    return entry, done.heldout_losses


def start_network(method: VideoMethod, state: dict[str, torch.Tensor], source: str, folder: Path) -> None:
    """Start a method's network from other weights and put into the record what was taken. Raises ValueError."""
    start = start_from(method.network, state)
    if not distributed.is_first():
        return
    emit("note", text=f"{len(start.taken)} tensors taken from {source}, {len(start.left)} left at their own start")
    weights = StartingWeights(**asdict(start), source=source)
    write_record(folder, replace(read_record(folder), starting_weights=weights))


def check_spent(cell: Experiment, totals: dict[str, float], spent: Spent) -> None:
    """Raise RuntimeError (OverBudget for more) unless the budget was met: exactly in clips, else by the last step."""
    currency, asked, last = cell.budget.currency, cell.budget.asked, spent.stages[-1]
    most = {"clips": 0.0, "flops": last.flops / last.steps, "seconds": math.inf}[currency]
    got = totals[currency]
    if not asked <= got <= asked + most:
        kind = RuntimeError if got < asked else OverBudget
        raise kind(f"{cell.cell} spent {got:g} {currency}, its budget is {asked:g}")
