"""Bytes that a run needs on disk, stage by stage, estimated before it starts.

Estimates are made to be enough: clips are kept as FFV1, which took 0.4 of raw RGB for clips of a trained network and up
to 1.1 for noise, container included, and are taken as raw; a moving grid is taken as a byte a pixel, its sprite as raw
up to the size that sprites keep to, and again in report.html.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lavita.codecs.base import Codec
from lavita.config.compose import Experiment
from lavita.config.protocol import Protocol
from lavita.config.schema import BudgetConfig, DataConfig
from lavita.data.clip_folder import GAP, MOST_BYTES, SMALLEST_SIDE
from lavita.data.manifest import FILE_NAME
from lavita.data.synthetic import PLANS
from lavita.experiment.budget import all_stages, on_meta
from lavita.methods.base import VideoMethod
from lavita.sampling.generate import GRID_CLIPS
from lavita.training.checkpoint import without_unchanged
from lavita.training.stage import TrainedStage

COLUMNS_OF_GRID = 4
STEP_BYTES = 55  # a line of steps.csv (about 40) and, every tenth step, of tensorboard (150)
STAGE_BYTES = 2**13  # what tensorboard writes of a stage at once
RUN_BYTES = 2**16  # configuration, record with the method's card, log, and what the page says of it
IN_THE_PAGE = 4 / 3  # base64
CLIP_BYTES = 200  # of a clip in clips.json
NAME_BYTES = 160  # of a clip's name beside its features
KEPT_TWICE = 2  # fitted parts lie in the cache and, copied, in the results folder
SPLITS_TIMES = 2 * 4  # two splits, each with at most four times as many windows as are scored
FEATURES = {"embedded": 70, "i3d": 400}


KEPT_CHECKPOINTS = 3  # of a stage while it trains: two, and the one that is being written


def working_bytes(protocol: Protocol, method: VideoMethod, budget: BudgetConfig) -> int:
    """What a run needs beside what it leaves, for a time: checkpoints while it trains (weights, average, two moments),
    and then the generated clips as they were made.
    """
    trained = sum(p.numel() * p.element_size() for p in method.trained_parameters())
    clips = 3 * protocol.n_generated * protocol.frames * protocol.resolution**2
    return max(checkpoints_at_a_time(method, budget) * (state_bytes(method) + 3 * trained), clips)


def checkpoints_at_a_time(method: VideoMethod, budget: BudgetConfig) -> int:
    """Most checkpoints of a stage that lie on the disk at a time: one a step at most, and one at its end."""
    if budget.clips is None or budget.currency != "clips":
        return KEPT_CHECKPOINTS
    modules = [stage.module for stage in method.stages()]
    cheapest = min(module.clip_cost * module.train_config.batch_clips for module in modules)  # step, in clips
    return min(KEPT_CHECKPOINTS, budget.clips // cheapest + 1)


def state_bytes(module: nn.Module, skip: str = "\0") -> int:
    """Bytes of a module's state dict, but for names that begin with skip."""
    return sum(v.numel() * v.element_size() for name, v in module.state_dict().items() if not name.startswith(skip))


def largest_checkpoint(experiments: Sequence[Experiment]) -> int:
    """Bytes of the largest checkpoint that a stage of some run is resumed from: weights, average and both moments of
    what it trains, counted on shapes."""
    found = 0
    for experiment in {one.label: one for one in experiments}.values():
        method, pretraining = on_meta(experiment, None)
        stages = all_stages(method, pretraining, experiment.pretraining.share)
        found = max(found, *(stage_checkpoint_bytes(stage.module) for stage in stages))
    return found


def stage_checkpoint_bytes(module: TrainedStage) -> int:
    """Bytes of the tensors of a stage's checkpoint."""
    trained = sum(p.numel() * p.element_size() for p in module.trained_parameters())
    weights = without_unchanged(module, module.state_dict())
    return sum(v.numel() * v.element_size() for v in weights.values()) + trained * (3 if module.uses_ema else 2)


def checkpoint_bytes(method: VideoMethod, external_codec: bool) -> int:
    """checkpoint.safetensors: the averaged weights; the autoencoder's too, unless that is external."""
    return state_bytes(method, skip="codec." if external_codec else "\0")


def log_bytes(steps: int | None) -> int:
    """steps.csv and tensorboard of a stage; without its steps where these are not known."""
    return STAGE_BYTES + STEP_BYTES * (steps or 0)


def grid_bytes(protocol: Protocol, clips: int = GRID_CLIPS) -> int:
    """A moving picture of some clips side by side."""
    side = protocol.resolution * max(1, SMALLEST_SIDE // protocol.resolution) + GAP
    rows = -(-min(clips, GRID_CLIPS) // COLUMNS_OF_GRID)
    return protocol.frames * (rows * side + GAP) * (COLUMNS_OF_GRID * side + GAP)


def sprite_bytes(protocol: Protocol, clips: int = GRID_CLIPS, files: int = 1) -> int:
    """The sprite of some clips in so many files, and its copy in the page."""
    raw = 3 * min(clips, GRID_CLIPS) * protocol.frames * protocol.resolution**2
    return round(min(MOST_BYTES, raw) * (files + IN_THE_PAGE))


def sets_of_clips(experiment: Experiment, method: VideoMethod) -> int:
    """How many times a run makes and scores the protocol's clips: untrained, trained, and by each task beside."""
    return 2 + len(method.tasks_beside(experiment.sampling))


def samples_bytes(protocol: Protocol, sets: int) -> int:
    """The protocol's generated clips and a sprite; grids of so many sets of clips, untrained ones among them."""
    p = protocol
    clip = 3 * p.frames * p.resolution**2
    return p.n_generated * (clip + CLIP_BYTES) + sets * grid_bytes(p, p.n_generated) + sprite_bytes(p, p.n_generated)


def features_bytes(protocol: Protocol, sets: int) -> tuple[int, int]:
    """(own, shared): features of so many sets of generated clips (trained, untrained, ...); of the real clips and of
    windows of either split, with a grid of real clips.
    """
    p = protocol
    row = 4 * FEATURES.get(p.extractor, max(FEATURES.values())) + NAME_BYTES
    shared = KEPT_TWICE * (p.n_real * (1 + SPLITS_TIMES) * row + grid_bytes(p, p.n_real))
    return sets * p.n_generated * row, shared + sprite_bytes(p, p.n_real, KEPT_TWICE)


def codec_bytes(experiment: Experiment, codec: Codec, steps: int) -> int | None:
    """The suite's autoencoder where it is trained here, what it loses, and the latent cache; None where the cache's
    size is not known.
    """
    own = KEPT_TWICE * (state_bytes(codec) + log_bytes(steps)) if experiment.codec.kind == "suite" else 0
    data, protocol = experiment.data, experiment.protocol
    latents = latent_bytes(data, experiment.tier, codec) if data.latent_cache else 0
    shown = KEPT_TWICE * grid_bytes(protocol) + sprite_bytes(protocol, files=KEPT_TWICE)
    return None if latents is None else own + shown + latents


def extractor_bytes(protocol: Protocol, num_classes: int | None) -> int:
    """The in-domain feature network; 0 where another one is used."""
    if protocol.extractor != "embedded":
        return 0
    from lavita.metrics.features.in_domain import InDomainNet

    with torch.device("meta"):
        return KEPT_TWICE * state_bytes(InDomainNet(num_classes))


def latent_bytes(data: DataConfig, tier: str, codec: Codec) -> int | None:
    """The latent cache: 2 C h w numbers a training frame, and as many for its mirror image where the data set is
    mirrored; None where nobody has counted the frames.
    """
    frames = training_frames(data, tier)
    a_frame = (
        {"float32": 4, "float16": 2}[data.latent_dtype]
        * 2
        * codec.latent_channels
        * codec.latent_side(data.resolution) ** 2
    )
    return None if frames is None else a_frame * frames * (2 if data.flip else 1)


def training_frames(data: DataConfig, tier: str) -> int | None:
    """Frames of the training split: of the synthetic videos, or by the manifest that prepare.py left in data.root; None
    where there is neither. Videos too short for a clip are counted in. Raises ValueError for another file.
    """
    if data.root is None:
        if tier != "demo":
            return None
        plan = PLANS[data.dataset]
        return len(plan.scenes) * len(plan.groups["train"]) * plan.clips_per_group * plan.frames
    path = Path(data.root).expanduser() / FILE_NAME
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return sum(int(row["frames"]) for row in rows if row["split"] == "train" and row["status"] == "ok")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a manifest of prepare.py ({error!r}); write it again or move it away") from None
