"""What a run's process works with, resolved once at the start: data, autoencoder, method, stages with their limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from lavita.config.compose import Experiment
from lavita.data.find import usable_catalogue
from lavita.executors.heartbeat import Note, emit
from lavita.experiment.budget import all_stages, shared_cost, split_budget
from lavita.experiment.stage_data import StageData, latent_key, open_latents
from lavita.methods.base import VideoMethod
from lavita.methods.build import build_method, build_pretraining, load_suite_codec
from lavita.methods.checkpoints import read_state, start_from
from lavita.results.records import StageRecord, StartingWeights, read_record, write_record
from lavita.results.shared import SharedArtifacts, read_shared
from lavita.sampling.generate import Conditions, conditions_of
from lavita.training import distributed
from lavita.training.budget import Limit
from lavita.training.stage import StagePlan


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
    device = distributed.own_device()
    e, num_classes = experiment, shared.num_classes
    catalogue = usable_catalogue(e.data, e.data.root, shared.cache)
    method = build_method(e, num_classes, load_suite_codec(e.codec, shared.codec)).to(device).eval()
    if e.pretraining.checkpoint:
        source = read_record(folder).external_weights["pretraining.checkpoint"]
        start_network(method, read_state(e.pretraining.checkpoint), source, folder)
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
    limits = split_budget(e.label, e.budget, stages, shared_cost(shared_stages), data.flops_per_clip)
    conditions = conditions_of(e.data, e.protocol, e.sampling.task, catalogue)
    return Setup(e, device, shared, shared_stages, data, method, pretraining, limits, conditions)


def start_network(method: VideoMethod, state: Mapping[str, torch.Tensor], source: str, folder: Path) -> None:
    """Start a method's network from other weights and put into the record what was taken. Raises ValueError."""
    start = start_from(method.network, state)
    if not distributed.is_first():
        return
    emit(Note(f"{len(start.taken)} tensors taken from {source}, {len(start.left)} left at their own start"))
    weights = StartingWeights(**asdict(start), source=source)
    write_record(folder, replace(read_record(folder), starting_weights=weights))
