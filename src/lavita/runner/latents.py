"""The latent cache of a run: filled once by what the cells share, opened and tried by each cell that trains from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lavita.bench.suite import CellConfig
from lavita.codec.base import Codec
from lavita.data.catalogue import Catalogue
from lavita.data.latents import LatentCache, LatentKey, fill_latents, videos_hash
from lavita.runner.events import emit, progress
from lavita.runner.flops import encoding_flops_per_clip


def latent_key(cell: CellConfig, catalogue: Catalogue, codec: Codec, codec_hash: str) -> LatentKey:
    """What the cache of a cell's setting must hold."""
    d, p = cell.data, cell.protocol
    return LatentKey(
        codec=codec_hash,
        data=catalogue.fingerprint,
        videos=videos_hash(catalogue.split("train")),
        resolution=d.resolution,
        crop=f"{p.crop}, {p.resize_filter}",
        interval=d.interval,
        mirrored=d.flip,
        channels=2 * codec.latent_channels,
        side=codec.latent_side(d.resolution),
    )


def encoder(codec: Codec) -> Callable[[Tensor], Tensor]:
    """The codec's posterior moments of frames on the CPU, computed where the codec lies."""
    device = next(codec.parameters(), torch.empty(0)).device

    @torch.no_grad()
    def encode(frames: Tensor) -> Tensor:
        return codec.moments(frames.to(device)).float().cpu()

    return encode


def fill(cell: CellConfig, catalogue: Catalogue, codec: Codec, codec_hash: str, cache: Path) -> dict[str, Any]:
    """Where the cache lies and the stage that it stands for on the ledger. Raises ValueError."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    key, began, last = latent_key(cell, catalogue, codec, codec_hash), time.monotonic(), 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 1:
            last = time.monotonic()
            progress("latent cache", done, total)

    encode = encoder(codec.eval().to(device))
    cost = fill_latents(cache, key, catalogue.split("train"), encode, lambda text: emit("note", text=text), report)
    emit("note", text=f"latent cache ready after {time.monotonic() - began:.1f} s, {cost['bytes'] / 2**20:.1f} MiB")
    one = torch.zeros(1, 1, 3, cell.data.resolution, cell.data.resolution)
    flops = encoding_flops_per_clip(codec, {"video": one}) * cost["frames"]
    stage = {"name": "latent cache", "clips": 0, "flops": flops} | {key: cost[key] for key in ("seconds", "bytes")}
    return {"latents": str(cache / key.name()), "latents_stage": stage}


def opened(cell: CellConfig, catalogue: Catalogue, codec: Codec, codec_hash: str, folder: str) -> LatentCache:
    """The cache of a cell, tried on one video against the codec. Raises StaleLatents."""
    videos = catalogue.split("train")
    latents = LatentCache(Path(folder), latent_key(cell, catalogue, codec, codec_hash), videos)
    latents.check_frame(videos[cell.seed % len(videos)], encoder(codec))
    return latents
