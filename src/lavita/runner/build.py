"""Builds what a cell needs from its configuration: codec, method, and the cut of its purse into stages."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from lavita.bench.suite import CellConfig, load_method
from lavita.codec.base import Codec
from lavita.codec.pixels import PixelCodec
from lavita.config import CodecConfig, read
from lavita.diffusion.draws import derive_seed
from lavita.registry import load_implementation
from lavita.train.budget import split_clips
from lavita.train.module import MethodContext, StagePlan, VideoMethod

SIZE_KEYS = ("size", "patch_size", "depth", "width", "num_heads")


def empty_codec(config: CodecConfig) -> Codec:
    """A codec of the configured shape with fresh weights: for counting, or to be filled from a checkpoint."""
    if config.kind == "pixels":
        return PixelCodec()
    from lavita.codec.kl import KLCodec, published_autoencoder
    from lavita.codec.training import small_autoencoder

    channels = config.latent_channels
    autoencoder = published_autoencoder(config) if config.kind == "kl" else small_autoencoder(config)
    return KLCodec(autoencoder, torch.zeros(channels), torch.ones(channels), 1.0, config.kind, config.clips)


def load_suite_codec(config: CodecConfig, folder: str | None) -> Codec:
    """The codec that all latent methods of a run share; folder holds the one that the suite trained."""
    if config.kind == "pixels":
        return PixelCodec()
    from lavita.codec.kl import load_codec, load_kl

    return load_kl(config.path, config.scaling) if config.kind == "kl" else load_codec(Path(folder))


def build_method(cell: CellConfig, num_classes: int | None, codec: Codec) -> VideoMethod:
    """The method of a cell at its starting weights, which depend on the cell's seed only."""
    implementation = load_implementation(cell.implementation)
    config = read(implementation.Config, cell.model, "model")
    torch.manual_seed(derive_seed(cell.seed, "initial weights"))
    context = MethodContext(
        num_frames=cell.data.frames,
        resolution=cell.data.resolution,
        num_classes=num_classes if cell.conditioning == "class" else None,
        codec=codec,
        train=cell.train,
        seed=cell.seed,
    )
    return implementation.Method(context, config)


def build_pretraining(cell: CellConfig, num_classes: int | None, codec: Codec) -> VideoMethod:
    """The image method that a cell's network starts from, at the size of that network.

    Its own file says everything of it but what both share by name: size, patch, depth, width, heads.
    """
    spec = load_method(cell.pretraining.method)
    ours = {key: value for key, value in cell.model.items() if key in SIZE_KEYS and key in spec.model}
    stage = replace(cell, method=spec.name, implementation=spec.implementation, model=spec.model | ours)
    method = build_method(stage, num_classes, codec)
    method.stage_name = "pretraining"
    return method


def own_clips(cell: CellConfig, method: VideoMethod) -> int:
    """Clips a method may spend itself: the purse less what the suite's codec cost, where it uses that codec."""
    if method.owns_first_stage or cell.codec.kind != "suite":
        return cell.budget.clips
    return cell.budget.clips - cell.codec.clips


def all_stages(cell: CellConfig, method: VideoMethod, pretraining: VideoMethod | None) -> list[StagePlan]:
    """The stages of a cell: of its pretraining, where it has one, and of its method, with their shares of the purse."""
    if pretraining is None:
        return method.stages()
    share = cell.pretraining.share
    own = [replace(stage, share=stage.share * (1 - share)) for stage in method.stages()]
    return [StagePlan(pretraining.stage_name, share, pretraining), *own]


def cut_purse(
    cell: CellConfig, method: VideoMethod, pretraining: VideoMethod | None = None
) -> list[tuple[StagePlan, int]]:
    """Stages of a cell with the clips of each; together exactly own_clips. Raises ValueError where it won't go."""
    stages = all_stages(cell, method, pretraining)
    # What a batch costs is a whole number of clips or a fraction; in lowest terms its numerator is the least whole
    # number of clips that is a multiple of it.
    costs = [stage.module.clip_cost * stage.module.train_config.batch_clips for stage in stages]
    batch = math.lcm(*(cost.numerator for cost in costs))
    clips = own_clips(cell, method)
    try:
        parts = split_clips(clips, [s.share for s in stages], [s.name for s in stages], batch)
    except ValueError as error:
        charged = cell.budget.clips - clips
        note = f" (budget.clips={cell.budget.clips}, of which the suite's codec costs {charged})" if charged else ""
        raise ValueError(f"{cell.label}: {error}{note}") from None
    return list(zip(stages, parts, strict=True))


def check_purse(cell: CellConfig, num_classes: int | None) -> list[tuple[StagePlan, int]]:
    """The stages of a cell as shapes, with the clips of each; allocates no weights.

    Raises ValueError unless every stage gets whole batches and the method does the task that its clips are made for.
    """
    if cell.codec.kind == "suite" and cell.codec.clips % cell.codec.batch_clips:
        raise ValueError(
            f"codec.clips: {cell.codec.clips} is not a multiple of codec.batch_clips {cell.codec.batch_clips}"
        )
    if cell.codec.kind == "suite" and cell.codec.clips >= cell.budget.clips:
        raise ValueError(
            f"budget.clips: {cell.budget.clips} leaves nothing after the suite's codec, which costs {cell.codec.clips}"
        )
    with torch.device("meta"):
        codec = empty_codec(cell.codec)
        pretraining = build_pretraining(cell, num_classes, codec) if cell.pretraining.method else None
        method = build_method(cell, num_classes, codec)
        check_task(cell, method)
        return cut_purse(cell, method, pretraining)


def check_task(cell: CellConfig, method: VideoMethod) -> None:
    """Raise ValueError unless the method does what sampling asks of it."""
    try:
        method.check_task(cell.sampling)
    except ValueError as error:
        raise ValueError(f"{cell.label}: {error}") from None


def codec_training_config(cell: CellConfig):
    """How the suite's codec is trained: the cell's rule with the codec's own batch and learning rate."""
    c = cell.codec
    return replace(
        cell.train,
        batch_clips=c.batch_clips,
        learning_rate=c.learning_rate,
        warmup_clips=min(cell.train.warmup_clips, c.clips // 10),
    )
