"""Builds what a run needs from its configuration: autoencoder, method, pretraining."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lavita.codecs.base import Codec, PixelCodec
from lavita.config.compose import Experiment, load_method
from lavita.config.registry import load_implementation
from lavita.config.schema import CodecConfig, TrainConfig, read
from lavita.diffusion.rng import derive_seed
from lavita.methods.base import MethodContext, VideoMethod

SIZE_KEYS = ("size", "patch_size", "depth", "width", "num_heads")


def empty_codec(config: CodecConfig) -> Codec:
    """An autoencoder of the configured shape with fresh weights: for counting, or to be filled from a checkpoint."""
    if config.kind == "pixels":
        return PixelCodec()
    from lavita.codecs.kl import KLCodec, published_autoencoder
    from lavita.codecs.training import small_autoencoder

    channels = config.latent_channels
    autoencoder = published_autoencoder(config) if config.kind == "kl" else small_autoencoder(config)
    return KLCodec(autoencoder, torch.zeros(channels), torch.ones(channels), 1.0, config.kind, config.clips)


def load_suite_codec(config: CodecConfig, folder: Path | None) -> Codec:
    """The autoencoder that all latent methods of a suite share; folder holds the one that the suite trained."""
    if config.kind == "pixels":
        return PixelCodec()
    from lavita.codecs.kl import load_codec, load_kl

    return load_kl(config.path, config.scaling) if config.kind == "kl" else load_codec(folder)


def build_method(experiment: Experiment, num_classes: int | None, codec: Codec) -> VideoMethod:
    """The method of a run at its starting weights, which depend on the run's seed only."""
    implementation = load_implementation(experiment.implementation)
    config = read(implementation.Config, experiment.model, "model")
    torch.manual_seed(derive_seed(experiment.seed, "initial weights"))
    context = MethodContext(
        num_frames=experiment.data.frames,
        resolution=experiment.data.resolution,
        num_classes=num_classes if experiment.conditioning == "class" else None,
        codec=codec,
        train=experiment.train,
        seed=experiment.seed,
    )
    return class_of(implementation, config)(context, config)


def class_of(implementation: ModuleType, config: Any) -> type[VideoMethod]:
    """The class that a configuration is of: what the module's `method_class` says where it has one, else its Method."""
    return getattr(implementation, "method_class", lambda _: implementation.Method)(config)


def build_pretraining(experiment: Experiment, num_classes: int | None, codec: Codec) -> VideoMethod:
    """The image method that a run's network starts from, at the size of that network.

    Its own file says everything of it but what both share by name: size, patch, depth, width, heads.
    """
    spec = load_method(experiment.pretraining.method)
    ours = {key: value for key, value in experiment.model.items() if key in SIZE_KEYS and key in spec.model}
    stage = replace(experiment, method=spec.name, implementation=spec.implementation, model=spec.model | ours)
    method = build_method(stage, num_classes, codec)
    method.stage_name = "pretraining"
    return method


def codec_training_config(codec: CodecConfig, train: TrainConfig) -> TrainConfig:
    """How the suite's autoencoder is trained: the rule of a run with its own batch and learning rate."""
    return replace(
        train,
        batch_clips=codec.batch_clips,
        learning_rate=codec.learning_rate,
        warmup_clips=min(train.warmup_clips, codec.clips // 10),
    )
