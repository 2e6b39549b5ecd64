"""The clips that the stages of a run read: which videos, in which batches, this process's part of each or all of it;
and the latents of all training videos, stored once for all runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lavita.codecs.base import Codec
from lavita.config.protocol import Protocol
from lavita.config.schema import ComputeConfig, DataConfig
from lavita.data.catalogue import Catalogue
from lavita.data.datamodule import ClipDataModule
from lavita.data.latent_cache import LatentCache, LatentKey, fill_latents, videos_hash
from lavita.executors.heartbeat import Note, emit, progress
from lavita.experiment.costs import encoding_flops_per_clip, training_flops_per_clip
from lavita.results.records import StageRecord
from lavita.training import distributed
from lavita.training.stage import TrainedStage


@dataclass(frozen=True)
class StageData:
    """The training data of one run, from which every stage takes its clips.

    seed: of windows and mirroring. method: who reads, for messages. latents: stored moments, for stages that read
    latents; None where there are none.
    """

    data: DataConfig
    compute: ComputeConfig
    catalogue: Catalogue
    seed: int
    method: str
    latents: LatentCache | None = None

    def clips(self, module: TrainedStage, start: int, stop: int, whole: bool = False) -> ClipDataModule:
        """Training clips start .. stop - 1 with what the stage reads beside them, in batches of one pass.

        whole: whole batches, where by default each process gets its part. Raises ValueError for a batch that does not
        go into its passes and processes, and for videos that are too short for the stage.
        """
        d = self.data
        self.check_batch(module, start)
        return ClipDataModule(
            self.long_enough(module),
            frames=d.frames,
            interval=d.interval,
            resolution=d.resolution,
            flip=d.flip,
            seed=self.seed,
            batch=module.train_config.batch_clips // self.compute.accumulate_batches,
            start=start,
            stop=stop,
            num_workers=d.num_workers,
            cache_bytes=d.cache_bytes,
            images=module.joint_images,
            context_frames=module.context_frames,
            frame_choice=d.frame_choice,
            latents=self.latents if module.reads_latents else None,
            rank=0 if whole else distributed.rank(),
            world=1 if whole else distributed.world(),
        )

    def check_batch(self, module: TrainedStage, start: int) -> None:
        """Raise ValueError unless the stage's batch goes into its passes and processes, all in the same update."""
        batch, method = module.train_config.batch_clips, self.method
        passes, processes = self.compute.accumulate_batches, self.compute.processes
        if batch % passes:
            raise ValueError(
                f"compute.accumulate_batches: {passes} does not divide the batch of {batch} clips of {method}"
            )
        if batch % (passes * processes):
            raise ValueError(
                f"compute.devices: {processes} processes with {passes} passes each do not divide the batch of {batch} "
                f"clips of {method}"
            )
        if module.alternating_updates > 1 and start % batch and passes * processes > 1:
            raise ValueError(
                f"stage {module.stage_name} of {method} alternates its updates by batches of {batch} clips and begins "
                f"at clip {start}: several passes or processes would be in different updates; set compute.devices, "
                "nodes and accumulate_batches to 1"
            )

    def long_enough(self, module: TrainedStage) -> Catalogue:
        """The catalogue without videos too short for a clip and its context frames, where such may be left out.

        Raises ValueError where they may not, or where none is left.
        """
        d = self.data
        try:
            return self.catalogue.long_enough(
                d.frames + module.context_frames, d.interval, d.short_videos, d.frame_choice
            )
        except ValueError as error:
            note = f" ({module.context_frames} of these frames are those before each clip of {self.method})"
            raise ValueError(f"{error}{note if module.context_frames else ''}") from None

    def reads_latents(self, module: TrainedStage) -> bool:
        """Whether a stage trains from stored latents."""
        return self.latents is not None and module.reads_latents

    def flops_per_clip(self, module: TrainedStage, start: int = 0) -> int:
        """FLOPs of one clip of a stage, counted on a real one after clip `start`."""
        data = self.clips(module, start, start + module.train_config.batch_clips)
        batch = next(iter(data.train_dataloader())) if self.reads_latents(module) else data.heldout_batch(1)
        return training_flops_per_clip(module, batch)


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
