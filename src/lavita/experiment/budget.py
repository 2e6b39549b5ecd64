"""The one purse of a cell cut into its stages, in clips, FLOPs or seconds; what it shares with others comes first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from lavita.config.compose import Experiment
from lavita.config.schema import BUDGET_UNITS
from lavita.experiment.costs import shape_batch, training_flops_per_clip
from lavita.methods.base import VideoMethod
from lavita.methods.build import build_method, build_pretraining, codec_training_config, empty_codec
from lavita.results.records import StageRecord
from lavita.training.budget import Limit, split_clips, split_flops
from lavita.training.stage import StagePlan, TrainedStage

FlopsPerClip = Callable[[TrainedStage], int]


@dataclass(frozen=True)
class SharedCost:
    """What parts that several cells share cost a cell: the suite's codec and, where it is used, the latent cache."""

    clips: int = 0
    flops: float = 0.0
    seconds: float = 0.0


def shared_cost(stages: Sequence[StageRecord]) -> SharedCost:
    """The sum over the ledger's entries of such parts."""
    return SharedCost(*(sum(getattr(stage, unit) for stage in stages) for unit in BUDGET_UNITS))


def shares_codec(cell: Experiment, method: VideoMethod) -> bool:
    """Whether a cell works on latents of a codec that the suite trained, and pays for it."""
    return cell.codec.kind == "suite" and not method.owns_first_stage


def all_stages(cell: Experiment, method: VideoMethod, pretraining: VideoMethod | None) -> list[StagePlan]:
    """The stages of a cell: of its pretraining, where it has one, and of its method, with their shares of the purse."""
    if pretraining is None:
        return method.stages()
    share = cell.pretraining.share
    own = [replace(stage, share=stage.share * (1 - share)) for stage in method.stages()]
    return [StagePlan(pretraining.stage_name, share, pretraining), *own]


def split_budget(
    cell: Experiment,
    method: VideoMethod,
    pretraining: VideoMethod | None = None,
    spent: SharedCost | None = None,
    flops_per_clip: FlopsPerClip | None = None,
) -> list[tuple[StagePlan, Limit]]:
    """Stages of a cell with what ends each; together the purse less what is charged.

    spent: what is charged, as measured; None: the codec's clips, as configured. flops_per_clip: counts those of a
    stage, where the currency is flops. Seconds of a stage are a share of the own part; the cell gives its last stage
    what is left. Raises ValueError where it won't go.
    """
    spent = spent or SharedCost(cell.codec.clips if shares_codec(cell, method) else 0)
    stages, currency = all_stages(cell, method, pretraining), cell.budget.currency
    cost = getattr(spent, currency)
    own = cell.budget.asked - cost
    try:
        if own <= 0:
            raise ValueError(f"budget: nothing is left of {cell.budget.asked:g} {currency}")
        if currency == "clips":
            limits = clips_limits(stages, int(own))
        elif currency == "flops":
            limits = flops_limits(stages, own, flops_per_clip)
        else:
            limits = [Limit(None, own * stage.share) for stage in stages]
    except ValueError as error:
        asked = f"budget.{currency}={cell.budget.asked:g}"
        note = f" ({asked}, of which what the rows share costs {cost:g})" if cost else f" ({asked})"
        raise ValueError(f"{cell.label}: {error}{note}") from None
    return list(zip(stages, limits, strict=True))


def clips_limits(stages: Sequence[StagePlan], clips: int) -> list[Limit]:
    """Whole batches a stage, together exactly the clips."""
    # What a batch costs is a whole number of clips or a fraction; in lowest terms its numerator is the least whole
    # number of clips that is a multiple of it.
    costs = [stage.module.clip_cost * stage.module.train_config.batch_clips for stage in stages]
    batch = math.lcm(*(cost.numerator for cost in costs))
    return [Limit(part) for part in split_clips(clips, [s.share for s in stages], [s.name for s in stages], batch)]


def flops_limits(stages: Sequence[StagePlan], flops: float, flops_per_clip: FlopsPerClip) -> list[Limit]:
    """Whole steps a stage, the last of which reaches the FLOPs; as the clips that these steps are."""
    per_step = [flops_per_clip(stage.module) * stage.module.train_config.batch_clips for stage in stages]
    steps = split_flops(flops, [s.share for s in stages], [s.name for s in stages], per_step)
    return [
        Limit(Fraction(count) * stage.module.clip_cost * stage.module.train_config.batch_clips)
        for count, stage in zip(steps, stages, strict=True)
    ]


def check_budget(cell: Experiment, num_classes: int | None) -> list[tuple[StagePlan, Limit]]:
    """The stages of a cell as shapes, with what ends each; allocates no weights.

    Raises ValueError unless every stage gets whole batches and the method does the task that its clips are made for.
    """
    if cell.codec.kind == "suite" and cell.codec.clips % cell.codec.batch_clips:
        raise ValueError(
            f"codec.clips: {cell.codec.clips} is not a multiple of codec.batch_clips {cell.codec.batch_clips}"
        )
    with torch.device("meta"):
        codec = empty_codec(cell.codec)
        pretraining = build_pretraining(cell, num_classes, codec) if cell.pretraining.method else None
        method = build_method(cell, num_classes, codec)
    check_task(cell, method)
    for module in (codec, method, *([pretraining] if pretraining else [])):
        module.to("meta")
    return split_budget(cell, method, pretraining, planned_shared_cost(cell, method), meta_flops(cell))


def meta_flops(cell: Experiment) -> FlopsPerClip:
    """Counts the FLOPs of a clip of a stage that lies on the meta device."""
    return lambda module: training_flops_per_clip(module, shape_batch(cell, module, 1))


def planned_shared_cost(cell: Experiment, method: VideoMethod) -> SharedCost:
    """What the suite's codec will cost a cell, as far as it is known before: its seconds are not."""
    if not shares_codec(cell, method):
        return SharedCost()
    if cell.budget.currency != "flops":
        return SharedCost(cell.codec.clips)
    from lavita.codecs.training import CodecTraining

    with torch.device("meta"):
        module = CodecTraining(cell.codec, codec_training_config(cell), seed=0)
    return SharedCost(cell.codec.clips, meta_flops(cell)(module.to("meta")) * cell.codec.clips)


def check_task(cell: Experiment, method: VideoMethod) -> None:
    """Raise ValueError unless the method does what sampling asks of it."""
    try:
        method.check_task(cell.sampling)
    except ValueError as error:
        raise ValueError(f"{cell.label}: {error}") from None
