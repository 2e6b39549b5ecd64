"""Whether a machine has what runs need: memory, shared memory, open files, disk. Asked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lavita.config.compose import Experiment
from lavita.config.schema import AUTO, ComputeConfig, DataConfig
from lavita.data.datamodule import PREFETCHED
from lavita.experiment.budget import on_meta
from lavita.experiment.disk import checkpoint_bytes, features_bytes, samples_bytes, sets_of_clips, working_bytes
from lavita.experiment.machine import free_disk, open_files, shared_memory
from lavita.experiment.memory import Peak
from lavita.experiment.peaks import (
    Memory,
    ask_ahead,
    choose_passes,
    features_peak,
    gib,
    loaded_batch,
    reconstruction_peak,
    sampling_peak,
    training_peak,
)
from lavita.experiment.stage_data import loader_processes
from lavita.methods.base import VideoMethod
from lavita.results.records import Passes
from lavita.training.stage import StagePlan, TrainedStage

SMALLER_SAMPLING = "; set a smaller sampling.batch_clips"
LITTLE = 16  # where training has so many times the memory that it needs, all else fits too
SIZES = ("XL", "L", "B", "S", "XS", "XXS")
FILES_OF_A_BATCH, FILES_OF_A_PROCESS = 8, 256


def check_machine(experiment: Experiment, stages: Sequence[StagePlan], num_classes: int | None, memory: Memory) -> None:
    """Raise ValueError, in one line, where this machine is too small for a run: what is needed, what is there, and the
    setting that would fit. stages: of the run, on the meta device.
    """
    passes = check_memory(experiment, stages, num_classes, memory)
    check_loader(experiment, list(zip(stages, passes, strict=True)))


def check_memory(
    experiment: Experiment, stages: Sequence[StagePlan], num_classes: int | None, memory: Memory
) -> list[Passes]:
    """The passes of each stage. Raises ValueError where one does not fit the memory."""
    e, little, found = experiment, True, []
    for stage in stages:
        passes, peak = passes_of(e, stage.module, memory)
        found.append(passes)
        little &= memory.fits(replace(peak, bytes=LITTLE * peak.bytes))
        if not memory.fits(peak):
            memory.check(f"{e.label}, stage {stage.name}", peak, advice(e, stage.name, num_classes, memory))
    if little:
        return found
    method = stages[-1].module
    if isinstance(method, VideoMethod):
        sampling = sampling_peak(method, e.data, e.sampling) or Peak()
        memory.check(f"{e.label}, sampling of {e.sampling.batch_clips} clips at a time", sampling, SMALLER_SAMPLING)
        codec = method.first_stage() or (None if method.owns_first_stage else method.context.codec)
        if codec is not None:
            memory.check(f"{e.label}, reconstruction by the autoencoder", reconstruction_peak(codec, e.data))
    memory.check("feature networks", features_peak(e.protocol, num_classes))
    return found


def passes_of(experiment: Experiment, module: TrainedStage, memory: Memory) -> tuple[Passes, Peak]:
    """The passes of a stage that lies on the meta device, and their peak."""
    e = experiment
    stored = e.data.latent_cache and module.reads_latents
    return choose_passes(e.compute, module, memory, lambda one: training_peak(e.data, e.compute, module, one, stored))


def advice(experiment: Experiment, stage: str, num_classes: int | None, memory: Memory) -> str:
    """The first setting with which a stage would fit, in words."""
    for said, other in smaller(experiment):
        method, pretraining = on_meta(other, num_classes)
        every = [*([StagePlan(pretraining.stage_name, 0.5, pretraining)] if pretraining else []), *method.stages()]
        module = next(one.module for one in every if one.name == stage)
        _, peak = passes_of(other, module, memory)
        if memory.fits(peak):
            return f"; with {said} it needs {gib(peak.bytes + memory.taken)} GiB"
    return "; use fewer data.frames, a smaller data.resolution or a device with more memory"


def smaller(experiment: Experiment) -> Iterator[tuple[str, Experiment]]:
    """Settings that need less memory, with what to say for each; the least change first."""
    e = experiment
    if e.compute.pass_clips != AUTO:
        e = replace(e, compute=replace(e.compute, pass_clips=AUTO))
        yield f"compute.pass_clips={AUTO}", e
    again = replace(e, compute=replace(e.compute, checkpoint_activations=True))
    if not e.compute.checkpoint_activations:
        yield "compute.checkpoint_activations=true", again
    size = e.model.get("size")
    for name in SIZES[SIZES.index(size) + 1 :] if size in SIZES else ():
        model = again.model | {"size": name}
        yield f"model.size={name} compute.checkpoint_activations=true", replace(again, model=model)


def check_disk(experiments: Sequence[tuple[Experiment, VideoMethod]], results: Path) -> None:
    """Raise ValueError where runs do not fit the disk that their results folder is on, of which some may lie there
    already; each with its method on the meta device.
    """
    left = sum(
        checkpoint_bytes(method, e.codec.kind == "kl")
        + samples_bytes(e.protocol, sets)
        + features_bytes(e.protocol, sets)[0]
        for e, method in experiments
        for sets in [sets_of_clips(e, method)]
    )
    there = sum(path.stat().st_size for path in (results / "cells").rglob("*") if path.is_file())
    working = max((working_bytes(e.protocol, method, e.budget) for e, method in experiments), default=0)
    needed, free = max(0, left - there) + working, free_disk(results)
    if needed > free:
        raise ValueError(
            f"{len(experiments)} runs need {gib(needed)} GiB more of disk, {results} has {gib(free)} free; give --out "
            "on a larger disk, fewer --methods, or a smaller protocol.n_generated"
        )


def loader_bytes(data: DataConfig, compute: ComputeConfig, module: TrainedStage, passes: Passes) -> int:
    """Shared memory that the loaders of a node have the batches of a stage in."""
    stored = data.latent_cache and module.reads_latents
    ask_ahead(data, module)
    batch = loaded_batch(data, module, passes.clips, stored)
    tensors = [one for value in batch.values() for one in (value if isinstance(value, list) else [value])]
    size = sum(one.numel() * one.element_size() for one in tensors)
    return compute.devices * loader_processes(data, compute) * PREFETCHED * size


def check_loader(experiment: Experiment, stages: Sequence[tuple[StagePlan, Passes]]) -> None:
    """Raise ValueError where the loaders' batches do not fit the memory that processes share, or their files are too
    many.
    """
    e, data = experiment, experiment.data
    workers = loader_processes(data, e.compute)
    if not workers:
        return
    files = FILES_OF_A_PROCESS + workers * PREFETCHED * FILES_OF_A_BATCH
    if files > open_files():
        raise ValueError(
            f"{e.label}: {workers} loader processes need {files} open files, this process may have "
            f"{open_files()}; set `ulimit -n {files}` or data.num_workers=0"
        )
    there = shared_memory()
    for stage, passes in stages:
        needed = loader_bytes(data, e.compute, stage.module, passes)
        if there is not None and needed > there:
            raise ValueError(
                f"{e.label}, stage {stage.name}: {workers} loader processes need {gib(needed)} GiB of "
                f"/dev/shm, which has {gib(there)} free; make it larger (docker run --shm-size) or set "
                f"data.num_workers={there * workers // needed}"
            )
