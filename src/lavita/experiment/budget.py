"""The compute budget of a run split into its stages, in clips, FLOPs or seconds, after what shared parts cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import torch

from lavita.config.compose import Experiment
from lavita.config.schema import BUDGET_UNITS, BudgetConfig, CodecConfig, ConfigError, DataConfig, SamplingConfig
from lavita.diffusion.schedule import Schedule, spaced_steps
from lavita.experiment.costs import preparation_flops, training_flops_per_clip
from lavita.experiment.peaks import shape_batch
from lavita.methods.base import VideoMethod
from lavita.methods.build import build_method, build_pretraining, codec_training_config, empty_codec
from lavita.results.records import StageRecord
from lavita.training.budget import Limit, split_clips, split_flops
from lavita.training.stage import StagePlan, TrainedStage

StageFlops = Callable[[TrainedStage], int]


@dataclass(frozen=True)
class SharedCost:
    """What parts that several runs share cost each of them: the suite's autoencoder and, where used, its latents."""

    clips: int = 0
    flops: float = 0.0
    seconds: float = 0.0


def shared_cost(stages: Sequence[StageRecord]) -> SharedCost:
    """The sum over the ledger's entries of such parts."""
    return SharedCost(*(sum(getattr(stage, unit) for stage in stages) for unit in BUDGET_UNITS))


def shares_codec(codec: CodecConfig, method: VideoMethod) -> bool:
    """Whether a method works on latents of an autoencoder that the suite trained, and pays for it."""
    return codec.kind == "suite" and not method.owns_first_stage


def all_stages(method: VideoMethod, pretraining: VideoMethod | None, share: float) -> list[StagePlan]:
    """The stages of a run with their shares of the compute budget: its pretraining, where it has one, then its method.

    share: that of the pretraining.
    """
    if pretraining is None:
        return method.stages()
    own = [replace(stage, share=stage.share * (1 - share)) for stage in method.stages()]
    return [StagePlan(pretraining.stage_name, share, pretraining), *own]


def split_budget(
    label: str,
    budget: BudgetConfig,
    stages: Sequence[StagePlan],
    shared: SharedCost,
    flops_per_clip: StageFlops | None = None,
    flops_before: StageFlops = lambda module: 0,
) -> list[tuple[StagePlan, Limit]]:
    """Stages of a run with what ends each; together the compute budget less what shared parts cost.

    label: the row's name, for messages. flops_per_clip: counts those of a stage, where the budget is in FLOPs;
    flops_before: those that it takes before its first step. Seconds of a stage are a share of the own part; the run
    gives its last stage what is left. Raises ValueError where the budget does not go into whole batches.
    """
    currency = budget.currency
    cost = getattr(shared, currency)
    own = budget.asked - cost
    try:
        if own <= 0:
            raise ValueError(f"budget: nothing is left of {budget.asked:g} {currency}")
        if currency == "clips":
            limits = clips_limits(stages, int(own))
        elif currency == "flops":
            limits = flops_limits(stages, own, flops_per_clip, flops_before)
        else:
            limits = [Limit(None, own * stage.share) for stage in stages]
    except ValueError as error:
        asked = f"budget.{currency}={budget.asked:g}"
        note = f" ({asked}, of which what the rows share costs {cost:g})" if cost else f" ({asked})"
        raise ValueError(f"{label}: {error}{note}") from None
    return list(zip(stages, limits, strict=True))


def clips_limits(stages: Sequence[StagePlan], clips: int) -> list[Limit]:
    """Whole batches a stage, together exactly the clips."""
    # What a batch costs is a whole number of clips or a fraction; in lowest terms its numerator is the least whole
    # number of clips that is a multiple of it.
    costs = [stage.module.clip_cost * stage.module.train_config.batch_clips for stage in stages]
    batch = math.lcm(*(cost.numerator for cost in costs))
    return [Limit(part) for part in split_clips(clips, [s.share for s in stages], [s.name for s in stages], batch)]


def flops_limits(
    stages: Sequence[StagePlan],
    flops: float,
    flops_per_clip: StageFlops,
    flops_before: StageFlops = lambda module: 0,
) -> list[Limit]:
    """Whole steps per stage, the last of which reaches the FLOPs; as the clips that these steps are. What stages take
    before their first steps is paid from the FLOPs. Raises ValueError where a stage has fewer clips than that reads.
    """
    flops -= sum(flops_before(stage.module) for stage in stages)
    per_step = [flops_per_clip(stage.module) * stage.module.train_config.batch_clips for stage in stages]
    steps = split_flops(flops, [s.share for s in stages], [s.name for s in stages], per_step)
    for count, stage in zip(steps, stages, strict=True):
        clips, wanted = count * stage.module.train_config.batch_clips, stage.module.prepared_clips
        if clips < wanted:
            raise ValueError(f"budget: stage {stage.name} gets {clips} clips, fewer than the {wanted} it measures on")
    return [
        Limit(Fraction(count) * stage.module.clip_cost * stage.module.train_config.batch_clips)
        for count, stage in zip(steps, stages, strict=True)
    ]


def check_budget(experiment: Experiment, num_classes: int | None) -> list[tuple[StagePlan, Limit]]:
    """The stages of a run as shapes, with what ends each; allocates no weights.

    Raises ValueError unless every stage gets whole batches and the method does the task that its clips are made for.
    """
    codec = experiment.codec
    if codec.kind == "suite" and codec.clips % codec.batch_clips:
        raise ValueError(f"codec.clips: {codec.clips} is not a multiple of codec.batch_clips {codec.batch_clips}")
    method, pretraining = on_meta(experiment, num_classes)
    check_task(experiment.label, method, experiment.sampling)
    return planned_stages(experiment, method, pretraining)


def on_meta(experiment: Experiment, num_classes: int | None) -> tuple[VideoMethod, VideoMethod | None]:
    """The method of a run and its pretraining, where it has one, as shapes on the meta device.

    Raises ValueError, in one line, for numbers of which no network can be made.
    """
    e = experiment
    try:
        with torch.device("meta"):
            codec = empty_codec(e.codec)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"codec: no autoencoder can be made of {numbers_of(asdict(e.codec))} ({said(error)})"
        ) from None
    try:
        with torch.device("meta"):
            method = build_method(e, num_classes, codec)
            pretraining = build_pretraining(e, num_classes, codec) if e.pretraining.method else None
    except (ArithmeticError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"{e.label}: no network can be made of {numbers_of(e.model)} ({said(error)})") from None
    for module in (codec, method, *([pretraining] if pretraining else [])):
        module.to("meta")
    return method, pretraining


def numbers_of(section: Mapping[str, Any]) -> str:
    """The numbers of a section, as messages name them."""
    return ", ".join(f"{key}={value}" for key, value in section.items() if isinstance(value, int | float))


def said(error: Exception) -> str:
    """An error of another library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def planned_stages(
    experiment: Experiment, method: VideoMethod, pretraining: VideoMethod | None
) -> list[tuple[StagePlan, Limit]]:
    """The stages of modules on the meta device with what ends each, as far as it is known before. Raises ValueError."""
    stages = all_stages(method, pretraining, experiment.pretraining.share)
    shared = planned_shared_cost(experiment, method)
    data = experiment.data

    def before(module: TrainedStage) -> int:
        return module.prepared_clips * preparation_flops(module, shape_batch(data, module, 1))

    flops = meta_flops(data, data.latent_cache)
    return split_budget(experiment.label, experiment.budget, stages, shared, flops, before)


def meta_flops(data: DataConfig, stored: bool = False) -> StageFlops:
    """Counts the FLOPs of a clip of a stage that lies on the meta device. stored: it may read stored latents."""
    return lambda module: training_flops_per_clip(module, shape_batch(data, module, 1, stored))


def planned_shared_cost(experiment: Experiment, method: VideoMethod) -> SharedCost:
    """What the suite's autoencoder will cost a run, as far as it is known before: its seconds are not."""
    config = experiment.codec
    if not shares_codec(config, method):
        return SharedCost()
    if experiment.budget.currency != "flops":
        return SharedCost(config.clips)
    from lavita.codecs.training import CodecTraining

    with torch.device("meta"):
        module = CodecTraining(config, codec_training_config(config, experiment.train), seed=0)
    return SharedCost(config.clips, meta_flops(experiment.data)(module.to("meta")) * config.clips)


def check_task(label: str, method: VideoMethod, sampling: SamplingConfig) -> None:
    """Raise ValueError, with the row's name, unless the method does what sampling asks of it, in steps that it has."""
    schedule = getattr(method, "schedule", None)
    try:
        method.check_task(sampling)
        if isinstance(schedule, Schedule):
            spaced_steps(schedule.num_steps, sampling.steps)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
