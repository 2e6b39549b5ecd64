"""Builds what a cell needs from its configuration: codec, method, pretraining."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lavita.codecs.base import Codec, PixelCodec
from lavita.config.compose import Experiment, load_method
from lavita.config.registry import load_implementation
from lavita.config.schema import CodecConfig, read
from lavita.diffusion.rng import derive_seed
from lavita.methods.base import MethodContext, VideoMethod

SIZE_KEYS = ("size", "patch_size", "depth", "width", "num_heads")


def empty_codec(config: CodecConfig) -> Codec:
    """A codec of the configured shape with fresh weights: for counting, or to be filled from a checkpoint."""
    if config.kind == "pixels":
        return PixelCodec()
    from lavita.codecs.kl import KLCodec, published_autoencoder
    from lavita.codecs.training import small_autoencoder

    channels = config.latent_channels
    autoencoder = published_autoencoder(config) if config.kind == "kl" else small_autoencoder(config)
    return KLCodec(autoencoder, torch.zeros(channels), torch.ones(channels), 1.0, config.kind, config.clips)


def load_suite_codec(config: CodecConfig, folder: Path | None) -> Codec:
    """The codec that all latent methods of a run share; folder holds the one that the suite trained."""
    if config.kind == "pixels":
        return PixelCodec()
    from lavita.codecs.kl import load_codec, load_kl

    return load_kl(config.path, config.scaling) if config.kind == "kl" else load_codec(folder)


def build_method(cell: Experiment, num_classes: int | None, codec: Codec) -> VideoMethod:
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


def build_pretraining(cell: Experiment, num_classes: int | None, codec: Codec) -> VideoMethod:
    """The image method that a cell's network starts from, at the size of that network.

    Its own file says everything of it but what both share by name: size, patch, depth, width, heads.
    """
    spec = load_method(cell.pretraining.method)
    ours = {key: value for key, value in cell.model.items() if key in SIZE_KEYS and key in spec.model}
    stage = replace(cell, method=spec.name, implementation=spec.implementation, model=spec.model | ours)
    method = build_method(stage, num_classes, codec)
    method.stage_name = "pretraining"
    return method


def codec_training_config(cell: Experiment):
    """How the suite's codec is trained: the cell's rule with the codec's own batch and learning rate."""
    c = cell.codec
    return replace(
        cell.train,
        batch_clips=c.batch_clips,
        learning_rate=c.learning_rate,
        warmup_clips=min(cell.train.warmup_clips, c.clips // 10),
    )
