"""Trains the stages of a run on their parts of its compute budget and counts what each spends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lavita.config.schema import CheckpointConfig
from lavita.diffusion.rng import derive_seed, seed_everything
from lavita.executors.heartbeat import Note, emit, progress_of_steps
from lavita.experiment.peaks import HELDOUT_CLIPS
from lavita.experiment.setup import Setup, start_network
from lavita.experiment.stage_data import StageData, first_clip
from lavita.results.devices import speed_of
from lavita.results.records import StageRecord
from lavita.results.resume_store import ResumeStore
from lavita.results.typed_json import from_json, to_json
from lavita.training import distributed
from lavita.training.budget import Limit
from lavita.training.checkpoint import StageCheckpoints, load_changed, without_unchanged
from lavita.training.fit import fit_stage, release
from lavita.training.stage import StagePlan

WEIGHTS = ".pt"
ENDLESS_BATCHES = 10**9  # of a stage that ends by its seconds


@dataclass
class Spent:
    """What the stages of a run cost as the ledger's entries, shared parts included; seen: clips drawn so far, so that
    no stage repeats those of the one before."""

    stages: list[StageRecord]
    heldout_losses: list[tuple[float, float]]
    seen: int = 0

    def total(self, unit: str) -> float:
        return sum(getattr(stage, unit) for stage in self.stages)


@dataclass(frozen=True)
class Resources:
    """What every stage of a run trains with: its clips, how often it is kept, where its logs go and it is kept."""

    data: StageData
    checkpoint: CheckpointConfig
    folder: Path
    store: ResumeStore


def train(setup: Setup, folder: Path, store: ResumeStore) -> Spent:
    """All stages in order, each on its part of the compute budget.

    store: where each stage keeps how far it is, and its end; what stands there is not done again.
    """
    experiment = setup.experiment
    spent = Spent(list(setup.shared_stages), [])
    resources = Resources(setup.data, experiment.checkpoint, folder, store)
    for number, (stage, limit) in enumerate(setup.stages, start=1):
        if limit.clips is None and number == len(setup.stages):
            limit = Limit(None, experiment.budget.seconds - spent.total("seconds"))
        later = [other.name for other, _ in setup.stages[number:]]
        complete_stage(stage, limit, resources, spent, later)
        if stage.module is setup.pretraining:
            source = f"{spent.stages[-1].clips} clips of {experiment.pretraining.method}"
            start_network(setup.method, setup.pretraining.network.state_dict(), source, folder)
    return spent


def complete_stage(stage: StagePlan, limit: Limit, resources: Resources, spent: Spent, later: Sequence[str]) -> None:
    """Train a stage, or load it where it is finished, and record its cost. later: names of the stages after it."""
    name, store = f"end-{stage.name}", resources.store
    end = distributed.from_first(lambda: kept_end(name, store))
    if end is None:
        if distributed.is_first():
            forget(store, later)
        seed_everything(derive_seed(resources.data.seed, "stage", stage.name))
        entry, losses = train_stage(stage, limit, resources, first_clip(stage.module, spent.seen))
        facts = {"entry": to_json(entry), "heldout_losses": losses}
        end = distributed.from_first(lambda: keep_end(stage, name, facts, store))
    file, found = end
    # Read back in any case, so that a stage which follows begins from the same memory wherever this one was trained.
    load_changed(stage.module, torch.load(store.named(file), map_location="cpu", weights_only=True, mmap=True))
    stage.module.eval()
    done = from_json(StageRecord, found["entry"], name)
    spent.stages.append(done)
    spent.heldout_losses = [(clips, loss) for clips, loss in found["heldout_losses"]]
    spent.seen = first_clip(stage.module, spent.seen) + done.steps * done.batch_clips


def forget(store: ResumeStore, stages: Sequence[str]) -> None:
    """Let go of stages that come after one whose end was damaged: the logs have their lines in the order of time."""
    for stage in stages:
        StageCheckpoints(store, stage).delete()
        for suffix in (WEIGHTS, ".json"):
            store.delete(f"end-{stage}", suffix)


def kept_end(name: str, store: ResumeStore) -> tuple[str, dict[str, Any]] | None:
    """The file of a stage's weights at its end, and its facts; None where it has not come to its end."""
    end, found = store.load(name, WEIGHTS), store.load_value(name)
    return None if end is None or found is None else (end.name, found)


def keep_end(stage: StagePlan, name: str, facts: dict[str, Any], store: ResumeStore) -> tuple[str, dict[str, Any]]:
    """Keep the end of a stage; its weights come last: where they are, the rest is too."""
    store.save_value(name, facts)
    state = {key: value.cpu() for key, value in without_unchanged(stage.module, stage.module.state_dict()).items()}
    path = store.save(name, WEIGHTS, lambda file: torch.save(state, file))
    StageCheckpoints(store, stage.name).delete()
    return path.name, store.load_value(name)


def train_stage(
    stage: StagePlan, limit: Limit, resources: Resources, seen: int
) -> tuple[StageRecord, list[tuple[float, float]]]:
    """Train one stage from clip number `seen` on, or resume it: its entry of the ledger, and its held-out losses."""
    module, store, source = stage.module, resources.store, resources.data
    batch = module.train_config.batch_clips
    drawn = ENDLESS_BATCHES * batch if limit.clips is None else int(limit.clips / module.clip_cost)
    data = source.clips(module, seen, seen + drawn)
    heldout = data.heldout_batch(HELDOUT_CLIPS)
    checkpoints = StageCheckpoints(store, stage.name)
    start = checkpoints.newest()
    if start is not None:
        emit(Note(f"{stage.name}: resumes from {checkpoints.clips_of(start):g} clips"))
    done = fit_stage(
        module,
        data.train_dataloader(),
        limit,
        resources.folder,
        heldout,
        progress_of_steps(float(module.clip_cost * batch)),
        source.compute_of(module),
        store,
        resources.checkpoint,
    )
    release(module)
    facts, drawn = source.facts[module.stage_name], done.steps * batch
    prepared = min(source.flops_before(module), drawn * facts.preparation_flops)
    entry = StageRecord(
        stage.name,
        done.clips,
        done.seconds,
        facts.flops_per_clip * drawn + prepared,
        steps=done.steps,
        batch_clips=batch,
        clip_cost=str(module.clip_cost),
        flops_per_clip=facts.flops_per_clip,
        preparation_flops=prepared or None,
        encoding_flops=None if facts.encoding_flops is None else facts.encoding_flops * drawn,
        passes=facts.passes,
        speed=speed_of(
            drawn, facts.flops_per_clip * drawn, done.seconds, source.compute.precision, source.compute.processes
        ),
        compiled_blocks=done.compiled_blocks,
    )
    last = done.heldout_losses[-1][1]
    emit(Note(f"{stage.name}: {done.clips} clips in {done.seconds:.1f} s; held-out loss {last:.4g}"))
    return entry, done.heldout_losses
