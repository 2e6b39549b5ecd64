"""What a run's process works with, resolved once at the start: data, autoencoder, method, stages with their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from lavita.config.compose import Experiment
from lavita.data.find import usable_catalogue
from lavita.executors.heartbeat import Note, emit
from lavita.experiment.budget import all_stages, shared_cost, split_budget
from lavita.experiment.costs import StageFacts, stage_facts
from lavita.experiment.machine import device_memory
from lavita.experiment.peaks import Memory
from lavita.experiment.preflight import advice
from lavita.experiment.stage_data import StageData, latent_key, open_latents
from lavita.methods.base import VideoMethod
from lavita.methods.build import build_method, build_pretraining, load_suite_codec
from lavita.methods.checkpoint_files import read_published
from lavita.results.records import Passes, StageRecord, StartingWeights, read_record, write_record
from lavita.results.shared import SharedArtifacts, read_shared
from lavita.sampling.generate import Conditions, conditions_of
from lavita.training import distributed
from lavita.training.budget import Limit
from lavita.training.stage import StagePlan, TrainedStage


@dataclass(frozen=True)
class Setup:
    """A run, ready to be trained, sampled and scored.

    method: on its device, in evaluation mode, at its starting weights. pretraining: the image method that its network
    starts from, None without. stages: all that are trained, in order, each with what ends it. shared: what the suite
    fitted for all its runs; shared_stages: what of it the run is charged, as the ledger's entries. data: the clips that
    stages read. conditions: the real clips that generated ones are made from, None for generation from noise alone.
    """

    experiment: Experiment
    device: torch.device
    shared: SharedArtifacts
    shared_stages: list[StageRecord]
    data: StageData
    method: VideoMethod
    pretraining: VideoMethod | None
    stages: list[tuple[StagePlan, Limit]]
    conditions: Conditions | None


def set_up(experiment: Experiment, folder: Path, shared_folder: Path) -> Setup:
    """Resolve a run in every one of its processes; folder: of the run, shared_folder: of what the suite shares.

    Raises ValueError for data, weights or a budget that do not go together.
    """
    shared = read_shared(shared_folder)
    distributed.start_group()
    memory = device_memory()
    device = distributed.own_device()
    e, num_classes = experiment, shared.num_classes
    catalogue = usable_catalogue(e.data, e.data.root, shared.cache)
    method = build_method(e, num_classes, load_suite_codec(e.codec, shared.codec)).to(device).eval()
    if e.pretraining.checkpoint:
        source = read_record(folder).external_weights["pretraining.checkpoint"]
        start_network(method, read_published(e.pretraining.checkpoint), source, folder)
    data = StageData(e.data, e.compute, catalogue, e.seed, e.method)
    shared_stages = []
    if shared.codec_stage and not method.owns_first_stage:
        shared_stages.append(replace(shared.codec_stage, charged=True))
    if shared.latents and shared.latents_stage and not method.owns_first_stage:
        key = latent_key(e.data, e.protocol, catalogue, method.context.codec, shared.codec_hash)
        data = replace(data, latents=open_latents(shared.latents, key, catalogue, method.context.codec, e.seed))
        shared_stages.append(replace(shared.latents_stage, charged=True))
    pretraining = build_pretraining(e, num_classes, method.context.codec) if e.pretraining.method else None
    stages = all_stages(method, pretraining, e.pretraining.share)
    data = replace(data, facts=known_facts(e, stages, num_classes, data.latents is not None, memory, folder))
    limits = split_budget(e.label, e.budget, stages, shared_cost(shared_stages), data.flops_per_clip, data.flops_before)
    conditions = conditions_of(e.data, e.protocol, e.sampling.task, catalogue)
    return Setup(e, device, shared, shared_stages, data, method, pretraining, limits, conditions)


def known_facts(
    e: Experiment, stages: Sequence[StagePlan], num_classes: int | None, stored: bool, memory: Memory, folder: Path
) -> dict[str, StageFacts]:
    """The facts of a run's stages, by their names, as the first process counts them.

    Passes stand in the record of the run's folder, so that each session has those of the first one. stored: latents
    are. Raises ValueError where a stage does not fit the device's memory.
    """
    kept = read_record(folder).passes if distributed.is_first() else {}
    found = {}
    for stage in stages:
        if distributed.is_first():
            said = partial(advice, e, stage.name, num_classes, memory)
            facts = stage_facts(e.data, e.compute, stage.module, memory, stored, kept.get(stage.name), said)
            numbers = [facts.flops_per_clip, -1 if facts.encoding_flops is None else facts.encoding_flops]
            numbers += [facts.passes.clips, facts.passes.recomputed, facts.preparation_flops]
        else:
            numbers = [0, 0, 0, 0, 0]
        flops, encoding, clips, recomputed, before = (int(distributed.of_first(float(one))) for one in numbers)
        passes = Passes(clips, bool(recomputed))
        found[stage.name] = StageFacts(flops, None if encoding < 0 else encoding, passes, before)
        if distributed.is_first() and stage.name not in kept:
            say_passes(e, stage.module, passes)
    if distributed.is_first():
        passes = {name: facts.passes for name, facts in found.items()}
        write_record(folder, replace(read_record(folder), passes=kept | passes))
    return found


def say_passes(e: Experiment, module: TrainedStage, passes: Passes) -> None:
    """A line that says how a batch of a stage goes through the machine, where that is not all at once."""
    processes = e.compute.processes
    part = module.train_config.batch_clips // processes
    if passes == Passes(part, e.compute.checkpoint_activations):
        return
    text = f"{module.stage_name}: {part // passes.clips} passes of {passes.clips} clips in {processes} processes"
    if passes.recomputed and not e.compute.checkpoint_activations:
        text += ", blocks computed again in the backward pass"
    if module.batch_statistics and passes.clips < part:
        text += f"; its statistics are those of {passes.clips} clips, for {part} the memory is too little"
    emit(Note(text))


def start_network(method: VideoMethod, state: Mapping[str, torch.Tensor], source: str, folder: Path) -> None:
    """Start a method's network from other weights and put into the record what was taken. Raises ValueError."""
    start = method.start_from(state)
    if not distributed.is_first():
        return
    emit(Note(f"{len(start.taken)} tensors taken from {source}, {len(start.left)} left at their own start"))
    weights = StartingWeights(**asdict(start), source=source)
    write_record(folder, replace(read_record(folder), starting_weights=weights))
