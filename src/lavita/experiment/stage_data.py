"""The clips that the stages of a run read: which videos, in which batches, this process's part of each or all of it;
and the latents of all training videos, stored once for all runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lavita.codecs.base import Codec
from lavita.config.protocol import Protocol
from lavita.config.schema import AUTO, CodecConfig, ComputeConfig, DataConfig
from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.datamodule import ClipDataModule, loader_workers
from lavita.data.latent_cache import LatentCache, LatentKey, videos_hash
from lavita.data.latent_filling import bytes_missing, fill_latents, free_bytes
from lavita.executors.base import TASKS
from lavita.executors.heartbeat import Note, emit, progress
from lavita.experiment.costs import StageFacts, encoding_flops_per_clip
from lavita.experiment.peaks import divisors, meta_copy
from lavita.methods.build import load_suite_codec
from lavita.metrics.features.base import exact_arithmetic
from lavita.results.records import StageRecord
from lavita.training import distributed
from lavita.training.fit import passes_to_prepare
from lavita.training.stage import TrainedStage

FREE_SHARE = 0.8  # of what is free that a latent cache takes unasked: runs leave results and checkpoints, too


@dataclass(frozen=True)
class StageData:
    """The training data of one run, from which every stage takes its clips.

    seed: of windows and mirroring. method: who reads, for messages. latents: stored moments, for stages that read
    latents; None where there are none. facts: of stages, by their names.
    """

    data: DataConfig
    compute: ComputeConfig
    catalogue: Catalogue
    seed: int
    method: str
    latents: LatentCache | None = None
    facts: Mapping[str, StageFacts] = field(default_factory=dict)

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
            batch=self.pass_clips(module),
            start=start,
            stop=stop,
            num_workers=loader_processes(d, self.compute),
            cache_bytes=d.cache_bytes,
            images=module.joint_images,
            context_frames=module.context_frames,
            frame_choice=d.frame_choice,
            latents=self.latents if module.reads_latents else None,
            rank=0 if whole else distributed.rank(),
            world=1 if whole else distributed.world(),
            repeats=(module.train_config.batch_clips, module.batch_of_update) if module.same_clips else None,
        )

    def check_batch(self, module: TrainedStage, start: int) -> None:
        """Raise ValueError unless the stage's batch goes into its passes and processes, all in the same update."""
        batch, method, compute = module.train_config.batch_clips, self.method, self.compute_of(module)
        processes, passes = compute.processes, compute.passes(batch)
        if batch % processes:
            raise ValueError(
                f"compute.devices: {processes} processes do not divide the batch of {batch} clips of {method}"
            )
        part = batch // processes
        if compute.pass_clips != AUTO and compute.pass_clips < part and part % compute.pass_clips:
            raise ValueError(
                f"compute.pass_clips: {compute.pass_clips} does not divide the {part} clips of a batch of {method} "
                f"that a process takes; set one of {', '.join(map(str, divisors(part)))}, or {AUTO}"
            )
        if module.alternating_updates > 1 and start % batch and passes * processes > 1:
            raise ValueError(
                f"stage {module.stage_name} of {method} alternates its updates by batches of {batch} clips and begins "
                f"at clip {start}: several passes or processes would be in different updates; set compute.devices "
                f"and nodes to 1 and compute.pass_clips to {batch}"
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

    def compute_of(self, module: TrainedStage) -> ComputeConfig:
        """How a stage uses the machine: with the passes that were chosen for it, where they were."""
        known = self.facts.get(module.stage_name)
        if known is None:
            return self.compute
        return replace(self.compute, pass_clips=known.passes.clips, checkpoint_activations=known.passes.recomputed)

    def pass_clips(self, module: TrainedStage) -> int:
        """Clips that go through all processes together in one pass."""
        batch = module.train_config.batch_clips
        return batch // self.compute_of(module).passes(batch)

    def flops_before(self, module: TrainedStage) -> int:
        """FLOPs that a stage whose facts are known takes before its first step, on whole passes of clips."""
        clips = self.pass_clips(module) * passes_to_prepare(module, self.pass_clips(module))
        return clips * self.facts[module.stage_name].preparation_flops

    def flops_per_clip(self, module: TrainedStage) -> int:
        """FLOPs of one clip of a stage whose facts are known."""
        return self.facts[module.stage_name].flops_per_clip


def first_clip(module: TrainedStage, seen: int) -> int:
    """The number of a stage's first clip after `seen` clips; where updates share clips, one at which the first of them
    begins."""
    period = module.alternating_updates * module.train_config.batch_clips if module.same_clips else 1
    return -(-seen // period) * period


def loader_processes(data: DataConfig, compute: ComputeConfig) -> int:
    """Loader processes of one training process: as asked, or its part of the cores, which all training processes of the
    machine share (the tasks that the launcher says it has at a time, each with its devices).
    """
    if data.num_workers is not None:
        return data.num_workers
    return loader_workers(compute.devices * int(os.environ.get(TASKS, "1")))


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
        dtype=data.latent_dtype,
    )


def encoder(codec: Codec) -> Callable[[Tensor], Tensor]:
    """The autoencoder's posterior moments of frames on the CPU, computed where it lies, in full float32."""
    device = next(codec.parameters(), torch.empty(0)).device

    @torch.no_grad()
    def encode(frames: Tensor) -> Tensor:
        with exact_arithmetic():
            return codec.moments(frames.to(device)).float().cpu()

    return encode


@dataclass(frozen=True)
class EncoderOn:
    """Makes the call of the suite's autoencoder on a device, in any process; folder: where the suite trained it."""

    codec: CodecConfig
    folder: Path | None
    device: str

    def __call__(self) -> Callable[[Tensor], Tensor]:
        if self.device != "cpu":
            torch.cuda.set_device(self.device)
        return encoder(load_suite_codec(self.codec, self.folder).eval().to(self.device))


def encoding_devices() -> list[str]:
    """Where frames are encoded: every accelerator that this process sees, or its CPU."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def store_latents(
    data: DataConfig,
    protocol: Protocol,
    catalogue: Catalogue,
    config: CodecConfig,
    codec_folder: Path | None,
    codec_hash: str,
    cache: Path,
) -> tuple[Path | None, StageRecord | None]:
    """Where the cache lies, filled, and the stage that it stands for on the ledger; None twice where it is only wanted
    if the disk has room (data.latent_cache=auto) and it has not.

    codec_folder: of an autoencoder that the suite trained. Raises ValueError.
    """
    codec, began, last = load_suite_codec(config, codec_folder).eval(), time.monotonic(), 0.0
    key, videos = latent_key(data, protocol, catalogue, codec, codec_hash), catalogue.split("train")
    if data.latent_cache == AUTO and (why := reason_against(key, videos, cache)):
        emit(Note(f"latent cache: left out, {why}"))
        return None, None

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 1:
            last = time.monotonic()
            progress("latent cache", done, total)

    encoders = [EncoderOn(config, codec_folder, device) for device in encoding_devices()]
    cost = fill_latents(cache, key, videos, encoders, lambda text: emit(Note(text)), report)
    emit(Note(f"latent cache ready after {time.monotonic() - began:.1f} s, {cost['bytes'] / 2**20:.1f} MiB"))
    one = torch.zeros(1, 1, 3, data.resolution, data.resolution, device="meta")
    flops = encoding_flops_per_clip(meta_copy(codec), {"video": one}) * cost["frames"]
    stage = StageRecord("latent cache", clips=0, seconds=cost["seconds"], flops=flops, bytes=cost["bytes"])
    return cache / key.name(), stage


def reason_against(key: LatentKey, videos: Sequence[VideoEntry], cache: Path) -> str:
    """Why a latent cache is not made where it may be left out; "" for none."""
    missing, free = bytes_missing(cache, key, videos), free_bytes(cache)
    if missing <= FREE_SHARE * free:
        return ""
    return (
        f"{missing / 2**30:.3g} GiB are wanted, which is more than {FREE_SHARE:.0%} of the {free / 2**30:.3g} GiB free "
        f"at {cache}; frames are encoded in every step (data.latent_cache=true fills it all the same)"
    )


def open_latents(folder: Path, key: LatentKey, catalogue: Catalogue, codec: Codec, seed: int) -> LatentCache:
    """The cache in a folder, tried against the autoencoder on one video, which seed chooses. Raises StaleLatents."""
    videos = catalogue.split("train")
    latents = LatentCache(folder, key, videos)
    latents.check_frame(videos[seed % len(videos)], encoder(codec))
    return latents
