"""The stored latents of a suite's training videos: filled once for all its runs, opened and tried by each of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lavita.codecs.base import Codec
from lavita.config.protocol import Protocol
from lavita.config.schema import DataConfig
from lavita.data.catalogue import Catalogue
from lavita.data.latent_cache import LatentCache, LatentKey, fill_latents, videos_hash
from lavita.executors.heartbeat import Note, emit, progress
from lavita.experiment.costs import encoding_flops_per_clip
from lavita.results.records import StageRecord


def latent_key(data: DataConfig, protocol: Protocol, catalogue: Catalogue, codec: Codec, codec_hash: str) -> LatentKey:
    """What the cache of a setting must hold."""
    return LatentKey(
        codec=codec_hash,
        data=catalogue.fingerprint,
        videos=videos_hash(catalogue.split("train")),
        resolution=data.resolution,
        crop=f"{protocol.crop}, {protocol.resize_filter}",
        interval=data.interval,
        mirrored=data.flip,
        channels=2 * codec.latent_channels,
        side=codec.latent_side(data.resolution),
    )


def encoder(codec: Codec) -> Callable[[Tensor], Tensor]:
    """The autoencoder's posterior moments of frames on the CPU, computed where it lies."""
    device = next(codec.parameters(), torch.empty(0)).device

    @torch.no_grad()
    def encode(frames: Tensor) -> Tensor:
        return codec.moments(frames.to(device)).float().cpu()

    return encode


def store_latents(
    data: DataConfig, protocol: Protocol, catalogue: Catalogue, codec: Codec, codec_hash: str, cache: Path
) -> tuple[Path, StageRecord]:
    """Where the cache lies, filled, and the stage that it stands for on the ledger. Raises ValueError."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    key, began, last = latent_key(data, protocol, catalogue, codec, codec_hash), time.monotonic(), 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 1:
            last = time.monotonic()
            progress("latent cache", done, total)

    encode = encoder(codec.eval().to(device))
    cost = fill_latents(cache, key, catalogue.split("train"), encode, lambda text: emit(Note(text)), report)
    emit(Note(f"latent cache ready after {time.monotonic() - began:.1f} s, {cost['bytes'] / 2**20:.1f} MiB"))
    one = torch.zeros(1, 1, 3, data.resolution, data.resolution)
    flops = encoding_flops_per_clip(codec, {"video": one}) * cost["frames"]
    stage = StageRecord("latent cache", clips=0, seconds=cost["seconds"], flops=flops, bytes=cost["bytes"])
    return cache / key.name(), stage


def open_latents(folder: Path, key: LatentKey, catalogue: Catalogue, codec: Codec, seed: int) -> LatentCache:
    """The cache in a folder, tried against the autoencoder on one video, which seed chooses. Raises StaleLatents."""
    videos = catalogue.split("train")
    latents = LatentCache(folder, key, videos)
    latents.check_frame(videos[seed % len(videos)], encoder(codec))
    return latents
